{{- define "isolation.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Part of all names; short enough for the longest suffix. */}}
{{- define "isolation.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "isolation.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "isolation.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "isolation.selectorLabels" -}}
app.kubernetes.io/name: dstack-isolation
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "isolation.labels" -}}
{{ include "isolation.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "isolation.managerName" -}}{{ include "isolation.fullname" . }}-manager{{- end -}}
{{- define "isolation.policyServerName" -}}{{ include "isolation.fullname" . }}-policy-server{{- end -}}
{{- define "isolation.cleanupName" -}}{{ include "isolation.fullname" . }}-cleanup{{- end -}}

{{- define "isolation.image" -}}
{{- $repository := required "image.repository must be set: build the image with `make image`, push it to a registry of yours, and name it here" .Values.image.repository -}}
{{- $repository -}}
{{- if or .Values.image.tag (not .Values.image.digest) -}}:{{ .Values.image.tag | default .Chart.AppVersion }}{{- end -}}
{{- with .Values.image.digest -}}@{{ . }}{{- end -}}
{{- end -}}

{{/* The namespace and pod name, which the processes do not find out by other means. */}}
{{- define "isolation.env" -}}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end -}}
