{{/*
What the operator may do, in each namespace that it watches. A contract test compares this with the calls that the
operator's code really makes: a verb more or less fails it. It may not read Secrets, and it creates no Pod: what runs in a
namespace is decided by Jobs and, where policies are served, by Deployments.
*/}}
{{- define "ratchet.rules" -}}
# Datasets and policies: watched and read; what they ask for is never written by the operator.
- apiGroups: [ratchet.dev]
  resources: [feedbackdatasets, rlpolicies]
  verbs: [get, list, watch]
# Runs: watched and read; a policy's template stamps new ones, and the time-to-live deletes old ones.
- apiGroups: [ratchet.dev]
  resources: [rltrainingruns]
  verbs: [get, list, watch, create, delete]
# The one status write per pass.
- apiGroups: [ratchet.dev]
  resources: [feedbackdatasets/status, rltrainingruns/status, rlpolicies/status]
  verbs: [update]
# One Job per attempt at a stage: created once, never changed, watched, deleted on suspension.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# A namespace's own store: the ConfigMap ratchet-store.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [ratchet-store]
  verbs: [get]
# Why a Job's pod does not run, how it ended, and where its /progress is.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# What happened, for `kubectl describe`; and what others say about a Job whose pods a quota or a policy refuses.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [list, create]
# The heartbeat's Lease must come back on a watch like everything else; who may write it stands beside.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [list, watch]
{{- if .Values.serving.enabled }}
# A policy's servers and routers: applied as its rollout wants them, read to see what differs, deleted when unneeded.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# Names of the servers, and of the routers, which people call; the routers' table, and the rows of its history.
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, create, patch, delete]
# A drained node takes one server of a version, and one router, at a time.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, create, patch, delete]
# A router's pod is annotated when its table changes: its kubelet then looks at the ConfigMap at once.
- apiGroups: [""]
  resources: [pods]
  verbs: [patch]
{{- if .Values.serving.httpRoutes.enabled }}
# Where a policy asks for it, Gateways deal in place of routers.
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, create, patch, delete]
{{- end }}
{{- end }}
{{- end -}}

{{/* What a gateway may do in its namespace; who its callers are is asked by a ClusterRole of its own. */}}
{{- define "ratchet.gatewayRules" -}}
# Which policies there are, their versions and templates; what data sets kept of the feedback, for the review page.
- apiGroups: [ratchet.dev]
  resources: [rlpolicies, feedbackdatasets]
  verbs: [list]
{{- if .Values.gateway.training.enabled }}
# The dataset and the run of train_policy: made once, then asked how far they are.
- apiGroups: [ratchet.dev]
  resources: [feedbackdatasets, rltrainingruns]
  verbs: [create, get]
{{- end }}
{{- end -}}

{{/* What a gateway namespace's eraser may do there. It may change no status, no Job, no Secret, and delete nothing. */}}
{{- define "ratchet.eraserRules" -}}
# What had learned from the person: found by its data's digest, then marked by an annotation, a data set asked anew.
- apiGroups: [ratchet.dev]
  resources: [feedbackdatasets, rlpolicies, rltrainingruns]
  verbs: [list, patch]
{{- end -}}
