{{/* Name of the chart in labels. */}}
{{- define "ratchet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Stem of all names: at most 44 characters, so that suffixes fit; no dots, which a Service may not have in its name. */}}
{{- define "ratchet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 44 | trimSuffix "-" -}}
{{- else if contains (include "ratchet.name" .) .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "ratchet.name" .) | replace "." "-" | trunc 44 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of the operator's own objects. */}}
{{- define "ratchet.operatorName" -}}
{{- printf "%s-operator" (include "ratchet.fullname" .) -}}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "ratchet.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "ratchet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: ratchet
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels by which the operator's pod is found; they never change. */}}
{{- define "ratchet.selector" -}}
app.kubernetes.io/name: {{ include "ratchet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Where the heartbeat's Lease lies: the operator's namespace if it is watched, else the first one that is. */}}
{{- define "ratchet.leaseNamespace" -}}
{{- if or (not .Values.watchNamespaces) (has .Release.Namespace .Values.watchNamespaces) -}}
{{- .Release.Namespace -}}
{{- else -}}
{{- first .Values.watchNamespaces -}}
{{- end -}}
{{- end -}}

{{- define "ratchet.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "ratchet.operatorName" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "ratchet.stageServiceAccount" -}}
{{- default (ternary "ratchet-stage" "default" .Values.stages.serviceAccount.create) .Values.stages.serviceAccount.name -}}
{{- end -}}

{{- define "ratchet.operatorImage" -}}
{{- default (printf "ghcr.io/ratchet/operator:%s" .Chart.AppVersion) .Values.images.operator -}}
{{- end -}}

{{- define "ratchet.jobsImage" -}}
{{- default (printf "ghcr.io/ratchet/jobs:%s" .Chart.AppVersion) .Values.images.jobs -}}
{{- end -}}

{{/* Name of each gateway's objects, in its own namespace. */}}
{{- define "ratchet.gatewayName" -}}
{{- printf "%s-gateway" (include "ratchet.fullname" .) -}}
{{- end -}}

{{/* Namespaces with a gateway, as JSON, because a template returns text: `include … | fromJsonArray`. */}}
{{- define "ratchet.gatewayNamespaces" -}}
{{- if .Values.gateway.enabled -}}
{{- default (list .Release.Namespace) .Values.gateway.namespaces | toJson -}}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{/* Labels of a gateway's objects. */}}
{{- define "ratchet.gatewayLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "ratchet.gatewaySelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: ratchet
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels by which a gateway's pods are found; they never change. */}}
{{- define "ratchet.gatewaySelector" -}}
app.kubernetes.io/name: {{ include "ratchet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{/* The eraser of each gateway's namespace. */}}
{{- define "ratchet.eraserName" -}}
{{- printf "%s-eraser" (include "ratchet.fullname" .) -}}
{{- end -}}

{{- define "ratchet.eraserSelector" -}}
app.kubernetes.io/name: {{ include "ratchet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: eraser
{{- end -}}

{{- define "ratchet.eraserLabels" -}}
{{ include "ratchet.gatewayLabels" . | replace "app.kubernetes.io/component: gateway" "app.kubernetes.io/component: eraser" }}
{{- end -}}

{{/* The analyst of each gateway's namespace. */}}
{{- define "ratchet.analystName" -}}
{{- printf "%s-analyst" (include "ratchet.fullname" .) -}}
{{- end -}}

{{- define "ratchet.analystSelector" -}}
app.kubernetes.io/name: {{ include "ratchet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: analyst
{{- end -}}

{{- define "ratchet.analystLabels" -}}
{{ include "ratchet.gatewayLabels" . | replace "app.kubernetes.io/component: gateway" "app.kubernetes.io/component: analyst" }}
{{- end -}}

{{- define "ratchet.gatewayImage" -}}
{{- default (printf "ghcr.io/ratchet/gateway:%s" .Chart.AppVersion) .Values.images.gateway -}}
{{- end -}}

{{- define "ratchet.servingImage" -}}
{{- default (printf "ghcr.io/ratchet/serving:%s" .Chart.AppVersion) .Values.images.serving -}}
{{- end -}}

{{- define "ratchet.routerImage" -}}
{{- default (printf "ghcr.io/ratchet/router:%s" .Chart.AppVersion) .Values.images.router -}}
{{- end -}}
