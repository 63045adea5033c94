package v1alpha1

// Finalizer keeps a DstackServer until the workload has its own settings back
// and no server pod asks the policy server any more.
const Finalizer = Group + "/release"

// Annotations that users set.
const (
	// AnnotationAcknowledgeDataLoss, set to "true" on a DstackServer, lets the
	// operator restart a server whose database lies on no persistent volume.
	AnnotationAcknowledgeDataLoss = Group + "/acknowledge-data-loss"
	// AnnotationApprove, set on a DstackServer to the revision of
	// status.pendingChange, lets that change of settings be applied.
	AnnotationApprove = Group + "/approve"
	// AnnotationConfigNamesPlugin, set to "true" on a DstackServer, says that the
	// server's config.yml names the plugin, where a volume is mounted at exactly its
	// path that the operator cannot read. The pods check it when they start.
	AnnotationConfigNamesPlugin = Group + "/config-names-plugin"
	// AnnotationRetry, set to any new value on a DstackServer, tries settings again
	// that were taken back because their first pod failed.
	AnnotationRetry = Group + "/retry"
)

// Condition types. All but Reconciling and Stalled are good when True.
const (
	// ConditionAccepted says that the object is valid and what it names exists.
	// Both kinds.
	ConditionAccepted = "Accepted"
	// ConditionProgrammed of an IsolationProfile is True when every policy server
	// pod decides by it and the running settings of the server include what it
	// needs.
	ConditionProgrammed = "Programmed"
	// ConditionConnected of a DstackServer is True when every server pod answers
	// and runs a supported release of dstack. Unknown while no pod runs.
	ConditionConnected = "Connected"
	// ConditionPodsOwned of a DstackServer is True when every pod that the workload's
	// selector matches was made by the workload's controller. No other pod gets a
	// token.
	ConditionPodsOwned = "PodsOwned"
	// ConditionPolicyPluginReady of a DstackServer is True when every replica of
	// the policy server is ready and decides by the desired revision.
	ConditionPolicyPluginReady = "PolicyPluginReady"
	// ConditionSSHProxyReady of a DstackServer is True when every replica of the SSH
	// proxy answers and every server pod that is configured with it has its token, or
	// when none is wanted.
	ConditionSSHProxyReady = "SSHProxyReady"
	// ConditionSettingsApplied of a DstackServer is True when all settings are in
	// the workload and every server pod runs with them.
	ConditionSettingsApplied = "SettingsApplied"
	// ConditionUnmatchedProjectsCovered of a DstackServer is True when the policy
	// for projects that no profile names is in force as its spec says.
	ConditionUnmatchedProjectsCovered = "UnmatchedProjectsCovered"
	// ConditionProfilesAccepted of a DstackServer is True when every profile that
	// names it is accepted. It is not part of Ready: the policy is served, and what a
	// profile has wrong is treated as denied.
	ConditionProfilesAccepted = "ProfilesAccepted"
	// ConditionExceptionsCurrent of an IsolationProfile is True when none of its
	// exceptions has ended. It is not part of Ready: the profile is in force.
	ConditionExceptionsCurrent = "ExceptionsCurrent"
	// ConditionReady sums up: of an IsolationProfile Accepted and Programmed, of a
	// DstackServer all of the above but ProfilesAccepted. Both kinds.
	ConditionReady = "Ready"
	// ConditionReconciling is True while the operator or the cluster still works
	// towards the desired state. Both kinds.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True when nothing will move until somebody acts; the
	// message says who and how. Both kinds.
	ConditionStalled = "Stalled"
)

// Reasons used with more than one condition.
const (
	// ReasonPending: not looked at yet.
	ReasonPending = "Pending"
	// ReasonReady with Ready=True, and ReasonSucceeded with Reconciling=False and
	// Stalled=False: nothing is left to do.
	ReasonReady     = "Ready"
	ReasonSucceeded = "Succeeded"
	// ReasonProgressing with Reconciling=True: work is under way.
	ReasonProgressing = "Progressing"
	// ReasonReconcileError: a request to the API server failed; it is retried.
	ReasonReconcileError = "ReconcileError"
	// ReasonReleasing: the object is being deleted and its settings are taken
	// back. Also the reason of a Warning event before the SSH proxy is removed from
	// the settings.
	ReasonReleasing = "Releasing"
	// ReasonDisabled: spec.injection is Disabled; the server runs without policy.
	ReasonDisabled = "Disabled"
)

// Reasons used with Accepted.
const (
	// ReasonAccepted: valid, and all that is named exists.
	ReasonAccepted = "Accepted"
	// ReasonServerNotFound of a profile: no DstackServer of that name is in its
	// namespace. Create it, or create the profile again with another
	// spec.serverRef.
	ReasonServerNotFound = "ServerNotFound"
	// ReasonServerNotAccepted of a profile: its DstackServer is not accepted; see
	// there.
	ReasonServerNotAccepted = "ServerNotAccepted"
	// ReasonInvalidException of a profile: an exception cannot work. The rest of
	// the profile is in force.
	ReasonInvalidException = "InvalidException"
	// ReasonInvalidSpec: a field has a value that this release does not know, or a
	// rule does not compile. What it is about is treated as denied. Of a DstackServer
	// also: its container uses another directory than spec.serverDir.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonWorkloadNotFound of a server: the workload does not exist. Create it,
	// or make a DstackServer with the right spec.workload.
	ReasonWorkloadNotFound = "WorkloadNotFound"
	// ReasonContainerNotFound of a server: the workload has no such container, or
	// several and none is named. Set spec.workload.container.
	ReasonContainerNotFound = "ContainerNotFound"
	// ReasonWorkloadClaimed of a server: an older DstackServer names the same
	// workload, or the same spec.api.url. Delete one of the two.
	ReasonWorkloadClaimed = "WorkloadClaimed"
)

// Reasons used with Programmed.
const (
	// ReasonProgrammed: the policy is served everywhere and the running settings
	// include what it needs.
	ReasonProgrammed = "Programmed"
	// ReasonAuditOnly: the profile only counts and logs.
	ReasonAuditOnly = "AuditOnly"
	// ReasonControlNotEnforceable: a denied control is enforced by nothing; the
	// message says what is missing.
	ReasonControlNotEnforceable = "ControlNotEnforceable"
	// ReasonPolicyServersNotReady: a policy server is not ready or decides by an
	// older revision.
	ReasonPolicyServersNotReady = "PolicyServersNotReady"
	// ReasonSettingsNotRunning: a server pod still runs without the settings.
	ReasonSettingsNotRunning = "SettingsNotRunning"
	// ReasonNoServerPods: no pod of the server runs, so nothing can be said.
	ReasonNoServerPods = "NoServerPods"
)

// Reasons used with Connected.
const (
	// ReasonConnected: all server pods answer.
	ReasonConnected = "Connected"
	// ReasonUnreachable: a server pod does not answer its API.
	ReasonUnreachable = "Unreachable"
	// ReasonUnsupportedRelease: the release of dstack is older than the operator
	// supports, or creates runs without asking any plugin.
	ReasonUnsupportedRelease = "UnsupportedRelease"
	// ReasonTokenRejected: the server refuses the admin token.
	ReasonTokenRejected = "TokenRejected"
	// ReasonTokenNotFound: the Secret or the key with the admin token is missing
	// or empty.
	ReasonTokenNotFound = "TokenNotFound"
)

// Reasons used with PodsOwned.
const (
	// ReasonOwned: all pods with the workload's labels are its own.
	ReasonOwned = "Owned"
	// ReasonForeignPods: a pod has the workload's labels and is not its own, so that
	// Services send it users' requests. Delete it.
	ReasonForeignPods = "ForeignPods"
	// ReasonPodsUnknown: the owner of a pod cannot be looked at. The pod gets no token
	// and does not count as enforcing anything.
	ReasonPodsUnknown = "PodsUnknown"
)

// Reasons used with PolicyPluginReady.
const (
	// ReasonServing: every replica decides by the desired revision.
	ReasonServing = "Serving"
	// ReasonRollingOut: replicas of the policy server are not ready yet.
	ReasonRollingOut = "RollingOut"
	// ReasonRevisionBehind: a replica decides by an older revision.
	ReasonRevisionBehind = "RevisionBehind"
	// ReasonUpgrading: the replicas run different builds of the operator.
	ReasonUpgrading = "Upgrading"
	// ReasonApplyFailed: an object of the operator's own cannot be applied.
	ReasonApplyFailed = "ApplyFailed"
	// ReasonTokenInvalid: a Secret of the operator's own, for the policy server's
	// token or its seal, lacks its key or has an unusable value. Delete it.
	ReasonTokenInvalid = "TokenInvalid"
)

// Reasons used with SSHProxyReady, besides RollingOut, ApplyFailed and
// Unreachable.
const (
	// ReasonNotConfigured: spec.sshProxy is not set.
	ReasonNotConfigured = "NotConfigured"
	// ReasonAnswering: the proxy greets as dstack's SSH proxy does, and server pods
	// that are configured with it have its token.
	ReasonAnswering = "Answering"
	// ReasonSecretInvalid: a Secret of the proxy is missing or holds no usable host
	// keys or token.
	ReasonSecretInvalid = "SecretInvalid"
	// ReasonAddressPending: the load balancer has no address yet.
	ReasonAddressPending = "AddressPending"
	// ReasonAddressChanged: the load balancer has another address than the server
	// is configured with. Write the one that is right to spec.sshProxy.managed.address.
	ReasonAddressChanged = "AddressChanged"
	// ReasonInvalidAddress: the load balancer has an address that dstack cannot
	// use. Set spec.sshProxy.managed.address.
	ReasonInvalidAddress = "InvalidAddress"
	// ReasonTokenMismatch: a server pod, or a process of an external server, has
	// another token than the proxy's Secret. Or the user's immutable Secret with the
	// token was replaced under the same name.
	ReasonTokenMismatch = "TokenMismatch"
	// ReasonHostKeyMismatch: an SSH proxy presents another host key than its Secret has.
	// Restart the proxies. The operator removes a key from status.sshProxy.knownHosts
	// when every proxy answers and none presents it.
	ReasonHostKeyMismatch = "HostKeyMismatch"
	// ReasonOutOfMemory is the reason of an event, and of no condition: a replica of the
	// SSH proxy was killed for lack of memory, which ended its sessions.
	ReasonOutOfMemory = "OutOfMemory"
	// ReasonNotEnforced: a server pod has no SSH proxy although its settings name one,
	// or a process of an external server does not have its settings yet, so it lets
	// users in past it.
	ReasonNotEnforced = "NotEnforced"
)

// Reasons used with SettingsApplied.
const (
	// ReasonWaitingForSSHProxy: the server is configured with the SSH proxy only when
	// that answers, because nobody could log in before.
	ReasonWaitingForSSHProxy = "WaitingForSSHProxy"
	// ReasonApplied: all settings are in the workload and in every pod.
	ReasonApplied = "Applied"
	// ReasonWaitingForPolicyServers: the server is configured with the policy server
	// only when all replicas are ready, and gets a weaker network mode only when all
	// of them have that policy.
	ReasonWaitingForPolicyServers = "WaitingForPolicyServers"
	// ReasonRolloutInProgress: pods with the settings are on their way.
	ReasonRolloutInProgress = "RolloutInProgress"
	// ReasonFieldConflict: another manager sets the same field to something else.
	ReasonFieldConflict = "FieldConflict"
	// ReasonConfigMountClash: a volume of the user's is mounted exactly where the
	// merged config.yml would be, and its file does not name the plugin itself. Or a
	// container restarted while it did not.
	ReasonConfigMountClash = "ConfigMountClash"
	// ReasonWouldLoseDatabase: a restart would lose the server's database.
	ReasonWouldLoseDatabase = "WouldLoseDatabase"
	// ReasonInjectionFailed: the first pod with the settings failed, so they were
	// taken back.
	ReasonInjectionFailed = "InjectionFailed"
	// ReasonPodFailing: a pod with the settings fails; earlier ones worked, so the
	// settings stay.
	ReasonPodFailing = "PodFailing"
	// ReasonPodRefused: the API server refuses the workload's pods with the settings
	// in them, by a quota for example.
	ReasonPodRefused = "PodRefused"
	// ReasonRolloutBlocked: the workload is paused or its strategy keeps pods from
	// being replaced.
	ReasonRolloutBlocked = "RolloutBlocked"
	// ReasonManualStepNeeded: spec.injection is Manual, and the workload lacks
	// something that its manifest must contain.
	ReasonManualStepNeeded = "ManualStepNeeded"
	// ReasonWaitingForApproval: spec.rollout is OnApproval, and a change of settings
	// waits for the annotation isolation.dstack.ai/approve. See status.pendingChange.
	ReasonWaitingForApproval = "WaitingForApproval"
	// ReasonRemovedBy: another manager took the settings out of the workload. They are
	// put back; see status.lastRemoval.
	ReasonRemovedBy = "RemovedBy"
	// ReasonReleaseTooOld: a setting needs a later release of dstack than a server pod
	// runs.
	ReasonReleaseTooOld = "ReleaseTooOld"
	// ReasonSettingHidden: a variable that the operator must judge or set may come from
	// another object by envFrom, where it is not seen. Or the container's command
	// changes it or hides it.
	ReasonSettingHidden = "SettingHidden"
	// ReasonNotVisible: the server is external (spec.api.url), so what its processes
	// run with cannot be seen from here. Put in place what ConfigMap
	// isolation-manual-NAME shows. With Programmed and UnmatchedProjectsCovered too: the
	// policy is served, and that every process asks for it cannot be seen.
	ReasonNotVisible = "NotVisible"
	// ReasonProxyInTheWay: specs would travel through an HTTP proxy.
	ReasonProxyInTheWay = "ProxyInTheWay"
	// ReasonConfigDisabled: the server is told not to read its config.yml, so it
	// would load no plugin.
	ReasonConfigDisabled = "ConfigDisabled"
	// ReasonInvalidWorkload: the API server refuses the workload with the settings
	// in it.
	ReasonInvalidWorkload = "InvalidWorkload"
)

// Reasons used with ProfilesAccepted, besides Accepted, InvalidSpec and
// InvalidException.
const (
	// ReasonRulesInvalid: a rule of a profile does not compile, so every object of its
	// kind in the profile's projects is refused. Correct the rule; the profile's
	// Accepted has line and column.
	ReasonRulesInvalid = "RulesInvalid"
)

// Reasons used with ExceptionsCurrent, besides ServerNotFound.
const (
	// ReasonNoneExpired: no exception of the profile has ended.
	ReasonNoneExpired = "NoneExpired"
	// ReasonExceptionExpired: an exception has ended. Remove it, or set a later
	// expiresAt.
	ReasonExceptionExpired = "ExceptionExpired"
)

// Reasons used with UnmatchedProjectsCovered, besides those of Programmed.
const (
	// ReasonCovered: projects that no profile names get what the spec says.
	ReasonCovered = "Covered"
)
