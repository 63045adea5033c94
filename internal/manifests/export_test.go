package manifests

// Anew is an intent with the revision of what it has by now.
func (i Intent) Anew() Intent {
	i.Revision = ""
	i.Revision = i.pinned(unpinned).digest()
	return i
}
