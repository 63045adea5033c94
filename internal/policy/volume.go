package policy

import "slices"

// volume is what the rules need to know of a volume's specification.
type volume struct {
	// existing are the places that name a disk or a claim that exists already.
	existing []place
	// class is the storage class that is asked for; nil for none.
	class *named
}

// volumeReader reads one specification of a volume in one pass.
type volumeReader struct {
	specReader
	volume volume
}

func (r *volumeReader) specMember(name string) error {
	at := place{index: -1, key: name}
	if name == inConfiguration {
		return r.configuration(at, r.member)
	}
	return r.known(at, volumeSpecKeys)
}

func (r *volumeReader) member(at place) error {
	switch at.key {
	case "type":
		return r.kind(at, "volume")
	case "backend":
		return r.oneBackend(at)
	case "volume_id", "claim_name":
		return r.existing(at)
	case "storage_class_name":
		return r.storageClass(at)
	case "tags":
		return r.tags(at)
	}
	return r.known(at, networkVolumeKeys)
}

// existing reads the name of something that exists already. To dstack an empty
// one is a name too.
func (r *volumeReader) existing(at place) error {
	if r.dec.PeekKind() == 'n' {
		return r.skip(at)
	}
	r.volume.existing = append(r.volume.existing, at)
	_, _, err := r.text(at, "write a name or null")
	return err
}

// storageClass reads the class of a claim. An empty one asks for a disk without
// a class, which exists already. What is no text counts as such.
func (r *volumeReader) storageClass(at place) error {
	if r.dec.PeekKind() == 'n' {
		return r.skip(at)
	}
	name, _, err := r.text(at, "write a name or null")
	r.volume.class = &named{at, name}
	return err
}

// finish judges what only the whole specification can tell.
func (r *volumeReader) finish() {
	r.complete("volume")
	r.completeBackend()
	slices.SortFunc(r.volume.existing, place.compare)
}
