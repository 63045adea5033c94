package controllers

import (
	"context"
	"fmt"
	"path"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/inject"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/workload"
)

// readConfigEvery is how often a ConfigMap or Secret with a config.yml is read:
// neither is watched.
const readConfigEvery = time.Minute

// configTrustedFor is for how long such a file is taken to be as it was when it was
// read last.
const configTrustedFor = 5 * readConfigEvery

// mountedConfig is what was found out about a config.yml that a volume is mounted
// at as a whole. Nothing of its content is kept.
type mountedConfig struct {
	// about is all that the finding depends on but the file's content.
	about string
	at    time.Time
	// clash says what is wrong with the file; empty when it names the plugin.
	clash status.Finding
	// changes is true when the file can change under a pod that runs.
	changes bool
}

// lookAtConfig judges a config.yml over which no copy can be mounted.
func (r *DstackServerReconciler) lookAtConfig(ctx context.Context, p *pass) error {
	source := workload.FindConfig(p.container, manifests.ServerDir(p.server), manifests.ConfigVolume)
	now := r.Clock.Now()
	if !source.Clash || source.Mount.SubPathExpr != "" {
		p.memory.config = nil
		p.followConfig(nil, now)
		return nil
	}
	file := p.workload.MountedFile(source.Mount)
	about := fmt.Sprintf("%+v %v %s %d %q", file, p.permissions(), p.server.Spec.PolicyPlugin.Delivery, p.workload.Meta.Generation, p.server.Annotations[v1alpha1.AnnotationConfigNamesPlugin])
	config := p.memory.config
	if config == nil || config.about != about || now.Before(config.at) || now.Sub(config.at) >= readConfigEvery {
		p.memory.config, config = nil, &mountedConfig{about: about, at: now}
		if err := r.judgeConfig(ctx, p, file, config); err != nil {
			p.doubtUnread(now)
			return err
		}
		p.memory.config = config
	}
	p.wakeAfter(readConfigEvery - now.Sub(config.at))
	p.clash = config.clash
	read := &workload.ConfigRead{At: config.at, Named: config.clash.Reason == "", LastNamed: p.memory.configNamed}
	if f := p.followConfig(read, now); p.clash.Reason == "" {
		p.clash = f
	}
	if config.clash.Reason == "" && config.changes {
		p.warn("volume %q is mounted at exactly %s, so that file is checked when a pod starts and never later: a container that restarts in its pod may read a changed one. "+
			"Take its content from a ConfigMap or Secret with immutable: true, of a new name for each version", file.Volume, configPath(p.server))
	}
	return nil
}

// followConfig keeps the time in which the file may not have named the plugin, and the
// doubt that comes of it. It finds a container that started anew in that time and may
// have read the file so. Read is nil when no such file is mounted any more.
func (p *pass) followConfig(read *workload.ConfigRead, now time.Time) status.Finding {
	var pod string
	var restarted status.Finding
	p.facts.ConfigFileGap, pod = workload.FollowConfig(p.facts.ConfigFileGap, read, p.pods, p.container.Name, now)
	if pod != "" {
		restarted = p.restartedWithout(pod)
	}
	if read != nil && read.Named {
		p.memory.configNamed = read.At
	}
	if gap := p.facts.ConfigFileGap; read == nil && gap != nil && gap.BackAt == nil && pod == "" {
		return restarted // Pods that are left still have the file that lacked the lines.
	}
	p.facts.Doubts = status.Doubts(p.facts.Doubts, []string{v1alpha1.ReasonConfigMountClash}, []status.Finding{p.clash, restarted}, now)
	return restarted
}

func (p *pass) restartedWithout(pod string) status.Finding {
	return status.Stuck(v1alpha1.ReasonConfigMountClash, fmt.Sprintf(
		"container %s of pod %s restarted while %s may not have named the plugin: restart the pods (%s)",
		p.container.Name, pod, configPath(p.server), p.restartCommand()))
}

// doubtUnread doubts a file that pods have checked and that has not been read for a
// while: it may have lost its lines since.
func (p *pass) doubtUnread(now time.Time) {
	if now.Sub(p.memory.configNamed) < configTrustedFor || !slices.ContainsFunc(p.pods, func(pod corev1.Pod) bool { return workload.ChecksConfig(&pod) }) {
		return
	}
	unread := status.Unknown(v1alpha1.ReasonConfigMountClash, fmt.Sprintf(
		"%s cannot be read, so it may no longer name the plugin: see SettingsApplied", configPath(p.server)))
	p.facts.Doubts = status.Doubts(p.facts.Doubts, nil, []status.Finding{unread}, now)
}

func configPath(s *v1alpha1.DstackServer) string {
	return path.Join(manifests.ServerDir(s), dstack.ConfigFile)
}

// judgeConfig reads the file, where the operator may, and says what it lacks.
func (r *DstackServerReconciler) judgeConfig(ctx context.Context, p *pass, file workload.Mounted, out *mountedConfig) error {
	out.changes = true
	clash := func(format string, args ...any) {
		out.clash = status.Stuck(v1alpha1.ReasonConfigMountClash, fmt.Sprintf("volume %q is mounted at exactly %s, where no copy can be put over it", file.Volume, configPath(p.server))+
			fmt.Sprintf(format, args...))
	}
	want := inject.Want{Plugin: manifests.PluginName(p.server), Permissions: p.permissions()}
	switch {
	case file.Problem != "":
		clash(", and %s", file.Problem)
		return nil
	case len(file.Objects) == 0:
		if p.server.Annotations[v1alpha1.AnnotationConfigNamesPlugin] != "true" {
			want.Private = true
			clash(", and the operator cannot read what is in a volume of kind %s: mount it at the directory %s instead. Or see that the file's list plugins has %s, and say so: kubectl -n %s annotate dstackserver %s %s=true. The pods check it when they start",
				file.Source, manifests.ServerDir(p.server), want.Plugin, p.server.Namespace, p.server.Name, v1alpha1.AnnotationConfigNamesPlugin)
		}
		return nil
	}
	for _, o := range file.Objects {
		content, immutable, err := r.readConfigObject(ctx, p.server.Namespace, o)
		if err != nil {
			return err
		}
		if content == nil {
			continue // A projected volume may have it from another.
		}
		out.changes = !immutable
		want.Private = o.Kind == "Secret"
		lines, err := inject.Missing(content, want)
		switch {
		case err != nil:
			clash(", and key %s of %s cannot be used: %v", o.Key, o, err)
		case len(lines) > 0:
			clash(": write %s into key %s of %s, and the file is used as it is%s", inject.Quoted(lines), o.Key, o, p.untilThen())
		}
		return nil
	}
	o := file.Objects[0]
	clash(", and there is no %s with key %s: make it with the lines %s", o, o.Key, inject.Quoted(want.Lines()))
	return nil
}

// untilThen tells what a file that lacks a line means for a server that has the
// settings already.
func (p *pass) untilThen() string {
	if p.workload.Injected() == nil {
		return ""
	}
	return ". Until then no new pod of the server starts"
}

// readConfigObject returns the value of a key, nil when there is none, and
// whether it stays as it is.
func (r *DstackServerReconciler) readConfigObject(ctx context.Context, namespace string, o workload.ConfigObject) (content []byte, immutable bool, err error) {
	key := client.ObjectKey{Namespace: namespace, Name: o.Name}
	if o.Kind == "Secret" {
		var secret corev1.Secret
		err = r.Live.Get(ctx, key, &secret)
		immutable = ptr.Deref(secret.Immutable, false)
		if value, set := secret.Data[o.Key]; set {
			content = append([]byte{}, value...)
		}
	} else {
		var configMap corev1.ConfigMap
		err = r.Live.Get(ctx, key, &configMap)
		content, immutable = configMap.BinaryData[o.Key], ptr.Deref(configMap.Immutable, false)
		if text, set := configMap.Data[o.Key]; set {
			content = []byte(text)
		}
	}
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read %s with config.yml: %w", o, err)
	}
	return content, immutable, nil
}
