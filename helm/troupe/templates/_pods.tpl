{{/* What all pods have in common. */}}

{{- define "troupe.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.security.runAsUser }}
runAsUser: {{ . | int64 }}
{{- end }}
{{- with .Values.security.runAsGroup }}
runAsGroup: {{ . | int64 }}
{{- end }}
{{- with .Values.security.fsGroup }}
fsGroup: {{ . | int64 }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Also on containers that KubeRay adds: it copies that of Ray's. */}}
{{- define "troupe.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Head of a pod's spec: .root, .settings (nodeSelector and so on) and .graceSeconds. */}}
{{- define "troupe.podSpec" -}}
serviceAccountName: {{ include "troupe.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .graceSeconds }}
securityContext:
  {{- include "troupe.podSecurity" .root | nindent 2 }}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .settings.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .settings.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with concat (default list .settings.tolerations) (default list .tolerations) }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where programs may write although the image is read-only. */}}
{{- define "troupe.writable" -}}
- {name: HOME, value: /tmp}
- {name: NUMBA_CACHE_DIR, value: /tmp/numba}
- {name: MPLCONFIGDIR, value: /tmp/matplotlib}
{{- end }}

{{/* How store and weight server are reached by a user of the store: .root, .user. */}}
{{- define "troupe.connections" -}}
{{- $store := .root.Values.store -}}
{{- if include "troupe.bundledStore" .root }}
- name: TROUPE_STORE_URL
  value: rediss://{{ .user }}@{{ include "troupe.host" (dict "root" .root "part" "store") }}:6379
- name: TROUPE_STORE_CA
  value: /etc/troupe-tls/ca.crt
{{- else }}
{{- $parts := splitn "://" 2 $store.externalUrl }}
{{- $user := index $store.externalUsers .user }}
- name: TROUPE_STORE_URL
  value: {{ $parts._0 }}://{{ with $user }}{{ . }}@{{ end }}{{ $parts._1 }}
{{- if $store.externalCaSecret }}
- name: TROUPE_STORE_CA
  value: /etc/troupe-store/ca.crt
{{- end }}
{{- end }}
- name: TROUPE_STORE_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "troupe.secret.store" .root }}
      key: {{ .user }}
{{- if .root.Values.weights.enabled }}
- name: TROUPE_WEIGHTS_ADDRESS
  value: {{ include "troupe.host" (dict "root" .root "part" "weights") }}:50051
{{- end }}
- name: TROUPE_WEIGHTS_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "troupe.secret.weights" .root }}
      key: token
- name: TROUPE_TLS
  value: /etc/troupe-tls
{{- end }}

{{- define "troupe.certificateVolumes" -}}
- name: tls
  secret:
    secretName: {{ include "troupe.secret.clientTls" . }}
    defaultMode: 0440
{{- if and .Values.store.externalUrl .Values.store.externalCaSecret }}
- name: store-ca
  secret:
    secretName: {{ .Values.store.externalCaSecret }}
    defaultMode: 0440
    items:
      - {key: ca.crt, path: ca.crt}
{{- end }}
{{- end }}

{{- define "troupe.certificateMounts" -}}
- {name: tls, mountPath: /etc/troupe-tls, readOnly: true}
{{- if and .Values.store.externalUrl .Values.store.externalCaSecret }}
- {name: store-ca, mountPath: /etc/troupe-store, readOnly: true}
{{- end }}
{{- end }}
