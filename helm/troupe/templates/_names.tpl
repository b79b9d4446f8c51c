{{/* Names and labels. */}}

{{- define "troupe.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters: KubeRay and the parts below append to it. */}}
{{- define "troupe.fullname" -}}
{{- $name := include "troupe.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "troupe.serviceAccount" -}}
{{- if .Values.security.serviceAccount.create -}}
{{ default (include "troupe.fullname" .) .Values.security.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.security.serviceAccount.name }}
{{- end -}}
{{- end }}

{{/* What tells a part's pods from all others. KubeRay sets the label app.kubernetes.io/name itself. */}}
{{- define "troupe.selector" -}}
app.kubernetes.io/part-of: troupe
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Of a pod: nothing that a new version of the chart would change and so restart it. */}}
{{- define "troupe.podLabels" -}}
{{ include "troupe.selector" . }}
app.kubernetes.io/name: {{ include "troupe.name" .root }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "troupe.labels" -}}
{{ include "troupe.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Head of every object: .root, .component, and optionally .name (a suffix), .annotations and .labels. */}}
{{- define "troupe.metadata" -}}
metadata:
  name: {{ include "troupe.fullname" .root }}{{ with .name }}-{{ . }}{{ end }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "troupe.labels" . | nindent 4 }}
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with merge (dict) (default dict .annotations) .root.Values.commonAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "troupe.image" -}}
{{- $image := index .root.Values.images .name -}}
{{- $registry := default .root.Values.images.registry $image.registry -}}
{{- $tag := default (default .root.Chart.AppVersion .root.Values.images.tag) $image.tag -}}
{{- if $image.digest -}}
{{ $registry }}/{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $registry }}/{{ $image.repository }}:{{ $tag }}
{{- end -}}
{{- end }}

{{/* Names of Secrets: the user's own or ours. */}}
{{- define "troupe.secret.ray" -}}
{{ default (printf "%s-ray" (include "troupe.fullname" .)) .Values.ray.existingSecret }}
{{- end }}
{{- define "troupe.secret.store" -}}
{{ default (printf "%s-store" (include "troupe.fullname" .)) .Values.store.existingSecret }}
{{- end }}
{{- define "troupe.secret.gcs" -}}
{{ default (printf "%s-gcs" (include "troupe.fullname" .)) .Values.ray.faultTolerance.existingSecret }}
{{- end }}
{{- define "troupe.secret.weights" -}}
{{ default (printf "%s-weights" (include "troupe.fullname" .)) .Values.weights.existingSecret }}
{{- end }}
{{- define "troupe.secret.metrics" -}}
{{ default (printf "%s-metrics" (include "troupe.fullname" .)) .Values.metrics.existingSecret }}
{{- end }}
{{- define "troupe.secret.serverTls" -}}
{{ default (printf "%s-server-tls" (include "troupe.fullname" .)) .Values.tls.existingServerSecret }}
{{- end }}
{{- define "troupe.secret.clientTls" -}}
{{ default (printf "%s-client-tls" (include "troupe.fullname" .)) .Values.tls.existingClientSecret }}
{{- end }}

{{- define "troupe.runsClaim" -}}
{{ default (printf "%s-runs" (include "troupe.fullname" .)) .Values.runs.existingClaim }}
{{- end }}

{{/* Where a part of ours listens: .root and .part. */}}
{{- define "troupe.host" -}}
{{ include "troupe.fullname" .root }}-{{ .part }}.{{ .root.Release.Namespace }}.svc
{{- end }}

{{/* Whether a store of our own runs; empty is no. */}}
{{- define "troupe.bundledStore" -}}
{{- if not .Values.store.externalUrl }}yes{{ end -}}
{{- end }}
{{- define "troupe.bundledGcs" -}}
{{- if and .Values.ray.faultTolerance.enabled (not .Values.ray.faultTolerance.externalAddress) }}yes{{ end -}}
{{- end }}
