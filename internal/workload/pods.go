package workload

import (
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// Endpoint is how the server's pods reach the policy server, and by which
// volumes their plugin and configuration are recognised.
type Endpoint struct {
	URL          string
	ServerDir    string
	ConfigVolume string
	PluginDir    string
	PluginVolume string
}

// Live are the pods that may still run: all but those that have ended.
func Live(pods []corev1.Pod) []corev1.Pod {
	return slices.DeleteFunc(slices.Clone(pods), func(p corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
}

// overdue is how long after its time a pod may still be ending: clocks differ, and a
// kubelet reports the end a moment later.
const overdue = time.Minute

// Lost tells whether a pod is not Ready and should have ended by now, as on a node that
// is gone: nobody removes the pod then, and no process in it can be waited for. Its
// DeletionTimestamp is when its time to end is over.
func Lost(pod *corev1.Pod, now time.Time) bool {
	return pod.DeletionTimestamp != nil && !Ready(pod) && now.After(pod.DeletionTimestamp.Add(overdue))
}

// WithoutLost are the pods for which a change of tokens waits: all but lost ones.
func WithoutLost(pods []corev1.Pod, now time.Time) []corev1.Pod {
	return slices.DeleteFunc(slices.Clone(pods), func(p corev1.Pod) bool { return Lost(&p, now) })
}

// Running is what the live pods of the server run with, by their own specs: the
// weakest of all, terminating ones included. What cannot be known counts as the
// weakest.
func Running(pods []corev1.Pod, container string, at Endpoint) v1alpha1.RunningSettings {
	var r v1alpha1.RunningSettings
	for i := range pods {
		c := findContainer(pods[i].Spec.Containers, container)
		r.Pods++
		mode := v1alpha1.NetworkMode(dstack.NetworkModeHostWhenPossible)
		var denied []v1alpha1.ControlName
		var permitted []string
		if c != nil {
			mode, denied = NetworkMode(c), forbidden(c)
			if SSHEnforced(c) {
				r.SSHEnforcedPods++
			}
			if d := asks(&pods[i], c, at); d != "" {
				r.PolicyPods++
				permitted = permissions(findContainer(pods[i].Spec.InitContainers, InjectContainer))
				if !slices.Contains(r.Deliveries, d) {
					r.Deliveries = append(r.Deliveries, d)
				}
			}
		}
		if r.Pods == 1 {
			r.NetworkMode, r.DeniedByServer, r.DefaultPermissions = mode, denied, permitted
		} else {
			r.NetworkMode = isolation.Weaker(r.NetworkMode, mode)
			r.DeniedByServer = common(r.DeniedByServer, denied)
			r.DefaultPermissions = common(r.DefaultPermissions, permitted)
		}
	}
	slices.Sort(r.Deliveries)
	return r
}

// NetworkMode is what a container's dstack runs with. One that cannot be known
// counts as the loosest.
func NetworkMode(c *corev1.Container) v1alpha1.NetworkMode {
	v := Lookup(c, dstack.EnvJobNetworkMode)
	if !v.Known || !v.Set {
		return dstack.NetworkModeHostWhenPossible
	}
	n, err := strconv.Atoi(v.Value)
	if err != nil || n < 1 || n > 3 {
		return dstack.NetworkModeHostWhenPossible
	}
	return v1alpha1.NetworkMode(n)
}

// asks tells in which way a pod certainly asks the policy server; "" when it does not,
// or when its process may not read what its spec shows.
func asks(pod *corev1.Pod, c *corev1.Container, at Endpoint) v1alpha1.Delivery {
	d := delivery(pod, c, at)
	if d == "" {
		return ""
	}
	set := []string{dstack.EnvConfigDisabled, dstack.EnvPluginServiceURI}
	if d == v1alpha1.DeliveryPython {
		set = []string{dstack.EnvConfigDisabled, dstack.EnvPolicyURL}
	}
	problem, _ := ServerDirProblem(&pod.Spec, c, at.ServerDir)
	if problem != "" || Hides(c, set, d == v1alpha1.DeliveryPython, at.PluginDir) != "" {
		return ""
	}
	return d
}

// delivery tells in which way a pod asks the policy server by its spec; "" when it
// does not. dstack loads a plugin only when its config.yml names it, so that must be
// the merged copy or a file that was checked.
func delivery(pod *corev1.Pod, c *corev1.Container, at Endpoint) v1alpha1.Delivery {
	inject := findContainer(pod.Spec.InitContainers, InjectContainer)
	if inject == nil || !namesPlugin(c, inject, at) || inEnv(c, dstack.EnvConfigDisabled).Set {
		return ""
	}
	pythonPath := inEnv(c, dstack.EnvPythonPath)
	onPath := slices.Contains(strings.Split(pythonPath.Value, ":"), at.PluginDir)
	switch {
	case is(c, dstack.EnvPolicyURL, at.URL) && onPath && mounts(c, at.PluginVolume, at.PluginDir):
		return v1alpha1.DeliveryPython
	case is(c, dstack.EnvPluginServiceURI, at.URL):
		return v1alpha1.DeliveryREST
	default:
		return ""
	}
}

// AnyUses tells whether any of the pods asks the policy server, whichever
// workload it belongs to and whatever its container is called.
func AnyUses(pods []corev1.Pod, at Endpoint) bool {
	return slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
		return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return delivery(&pod, &c, at) != "" })
	})
}

// NoneLabelled tells whether there are pods that rely on the operator's label and none
// of them has it, so that an SSH proxy reaches no server.
func NoneLabelled(pods []corev1.Pod, server string, at Endpoint) bool {
	return AnyUnlabelled(pods, server, at) &&
		!slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return pod.Labels[LabelServerPod] == server })
}

// AnyUnlabelled tells whether any pod that asks the policy server, or is told of an
// SSH proxy, lacks the label by which it would be selected: it was made by an earlier
// version, or its manifest does not have the label.
func AnyUnlabelled(pods []corev1.Pod, server string, at Endpoint) bool {
	return slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
		if pod.Labels[LabelServerPod] == server {
			return false
		}
		return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
			_, told := LiveSSHProxy(&c)
			return told || delivery(&pod, &c, at) != ""
		})
	})
}

func is(c *corev1.Container, name, value string) bool {
	v := inEnv(c, name)
	return v.Known && v.Set && v.Value == value
}

func mounts(c *corev1.Container, volume, at string) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
		return m.Name == volume && mountDir(&m) == at
	})
}

// Ready tells whether a pod's Ready condition is true.
func Ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
