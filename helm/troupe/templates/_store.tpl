{{/* A Redis-protocol server with its disk: .root, .part, .settings, .secret, .probe (user and key). */}}

{{- define "troupe.redis.configMap" -}}
{{- $persistent := or (eq .part "gcs") (has "prompts" (default list .settings.roles)) -}}
apiVersion: v1
kind: ConfigMap
{{ include "troupe.metadata" (dict "root" .root "component" .part "name" .part) }}
data:
  users.sh: |
    {{- .root.Files.Get "files/users.sh" | trimSuffix "\n" | nindent 4 }}
  users: |
    {{- .root.Files.Get (printf "files/%s-users" .part) | trimSuffix "\n" | nindent 4 }}
  store.conf: |
    # TLS alone; who calls shows a password, not a certificate.
    port 0
    tls-port 6379
    tls-cert-file /etc/troupe-tls/tls.crt
    tls-key-file /etc/troupe-tls/tls.key
    tls-ca-cert-file /etc/troupe-tls/ca.crt
    tls-auth-clients no
    aclfile /run/store/users.acl
    dir /data
    databases 1
    maxmemory {{ .memoryMb }}mb
    # At the limit writers are told so and wait; nothing is ever thrown away unasked.
    maxmemory-policy noeviction
    {{- if $persistent }}
    appendonly yes
    appendfsync everysec
    {{- else }}
    appendonly no
    {{- end }}
    save ""
{{- end }}

{{- define "troupe.redis.service" -}}
apiVersion: v1
kind: Service
{{ include "troupe.metadata" (dict "root" .root "component" .part "name" .part) }}
spec:
  clusterIP: None
  selector:
    {{- include "troupe.selector" (dict "root" .root "component" .part) | nindent 4 }}
  ports:
    - {name: redis, port: 6379, targetPort: redis}
{{- end }}

{{- define "troupe.redis.statefulSet" -}}
{{- $root := .root -}}
{{- $settings := .settings -}}
{{- $ping := printf "cli=$(command -v valkey-cli || command -v redis-cli); \"$cli\" --tls --cacert /etc/troupe-tls/ca.crt --user %s ping | grep -q PONG" .probe.user -}}
apiVersion: apps/v1
kind: StatefulSet
{{ include "troupe.metadata" (dict "root" $root "component" .part "name" .part) }}
spec:
  replicas: 1
  serviceName: {{ include "troupe.fullname" $root }}-{{ .part }}
  # The disk outlives both this object and a smaller number of pods.
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Retain}
  selector:
    matchLabels:
      {{- include "troupe.selector" (dict "root" $root "component" .part) | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "troupe.podLabels" (dict "root" $root "component" .part) | nindent 8 }}
      annotations:
        troupe/settings: {{ include "troupe.redis.configMap" . | sha256sum }}
        {{- with $root.Values.commonAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- include "troupe.podSpec" (dict "root" $root "settings" $settings "graceSeconds" (default 60 $settings.graceSeconds)) | nindent 6 }}
      initContainers:
        - name: users
          image: {{ include "troupe.image" (dict "root" $root "name" "store") }}
          imagePullPolicy: {{ $root.Values.images.pullPolicy }}
          securityContext:
            {{- include "troupe.containerSecurity" $root | nindent 12 }}
          resources:
            requests: {cpu: 50m, memory: 32Mi}
            limits: {cpu: 200m, memory: 32Mi}
          command: [sh, -c, "umask 077; sh /etc/store/users.sh /etc/store/users /etc/passwords >/run/store/users.acl"]
          volumeMounts:
            - {name: settings, mountPath: /etc/store, readOnly: true}
            - {name: passwords, mountPath: /etc/passwords, readOnly: true}
            - {name: users, mountPath: /run/store}
      containers:
        - name: {{ .part }}
          image: {{ include "troupe.image" (dict "root" $root "name" "store") }}
          imagePullPolicy: {{ $root.Values.images.pullPolicy }}
          securityContext:
            {{- include "troupe.containerSecurity" $root | nindent 12 }}
          resources:
            {{- toYaml $settings.resources | nindent 12 }}
          command: [sh, -c, exec "$(command -v valkey-server || command -v redis-server)" /etc/store/store.conf]
          ports:
            - {name: redis, containerPort: 6379}
          env:
            - name: REDISCLI_AUTH
              valueFrom:
                secretKeyRef:
                  name: {{ .secret }}
                  key: {{ .probe.key }}
          # A log of prompts is read again at the start: up to ten minutes.
          startupProbe:
            exec: {command: [sh, -c, {{ $ping | quote }}]}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 120
          readinessProbe:
            exec: {command: [sh, -c, {{ $ping | quote }}]}
            periodSeconds: 10
            timeoutSeconds: 5
          livenessProbe:
            exec: {command: [sh, -c, {{ $ping | quote }}]}
            periodSeconds: 20
            timeoutSeconds: 10
            failureThreshold: 6
          volumeMounts:
            - {name: settings, mountPath: /etc/store, readOnly: true}
            - {name: users, mountPath: /run/store, readOnly: true}
            - {name: tls, mountPath: /etc/troupe-tls, readOnly: true}
            - {name: data, mountPath: /data}
      volumes:
        - name: settings
          configMap:
            name: {{ include "troupe.fullname" $root }}-{{ .part }}
        - name: passwords
          secret:
            secretName: {{ .secret }}
            defaultMode: 0440
        - name: users
          emptyDir: {medium: Memory, sizeLimit: 1Mi}
        - name: tls
          secret:
            secretName: {{ include "troupe.secret.serverTls" $root }}
            defaultMode: 0440
  volumeClaimTemplates:
    - metadata:
        name: data
        labels:
          {{- include "troupe.selector" (dict "root" $root "component" .part) | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $settings.storage.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ $settings.storage.size }}
{{- end }}
