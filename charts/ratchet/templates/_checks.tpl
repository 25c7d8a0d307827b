{{/*
What no schema can say: values that make no sense together. Each refusal names the values and the remedy.
*/}}
{{- define "ratchet.checks" -}}
{{- if and .Values.serving.enabled (not (and .Values.gateway.enabled .Values.gateway.analyst.enabled)) -}}
{{- fail "serving.enabled needs gateway.enabled and gateway.analyst.enabled: answers are recorded at the gateway, and without an analyst no version on trial would ever get a larger share; set both, or serving.enabled=false" -}}
{{- end -}}
{{- end -}}
