{{/* A Ray cluster, as RayCluster and RayJob both hold it. */}}

{{- define "troupe.ray.spec" -}}
{{- $ray := .Values.ray -}}
rayVersion: {{ $ray.version | quote }}
authOptions:
  mode: token
  secretName: {{ include "troupe.secret.ray" . }}
{{- if $ray.autoscaling.enabled }}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: {{ $ray.autoscaling.idleSeconds }}
  upscalingMode: {{ $ray.autoscaling.upscaling }}
  image: {{ include "troupe.image" (dict "root" . "name" "control") }}
  imagePullPolicy: {{ .Values.images.pullPolicy }}
  resources:
    {{- toYaml $ray.autoscaling.resources | nindent 4 }}
  securityContext:
    {{- include "troupe.containerSecurity" . | nindent 4 }}
  env:
    {{- include "troupe.writable" . | nindent 4 }}
  volumeMounts:
    - {name: scratch, mountPath: /tmp}
    - {name: api-access, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}
{{- if $ray.faultTolerance.enabled }}
gcsFaultToleranceOptions:
  backend: redis
  {{- if include "troupe.bundledGcs" . }}
  redisAddress: rediss://{{ include "troupe.host" (dict "root" . "part" "gcs") }}:6379
  {{- else }}
  redisAddress: {{ $ray.faultTolerance.externalAddress }}
  {{- end }}
  redisPassword:
    valueFrom:
      secretKeyRef:
        name: {{ include "troupe.secret.gcs" . }}
        key: password
{{- end }}
{{- if eq .Values.mode "cluster" }}
upgradeStrategy:
  type: {{ $ray.upgradeStrategy }}
{{- end }}
headGroupSpec:
  rayStartParams:
    {{- include "troupe.ray.startParams" (dict "settings" $ray.head "fixed" (dict "num-cpus" "0" "num-gpus" "0" "dashboard-host" "0.0.0.0")) | nindent 4 }}
  template:
    metadata:
      {{- include "troupe.ray.podMetadata" (dict "root" . "component" "head" "settings" $ray.head) | nindent 6 }}
    spec:
      {{- include "troupe.ray.podSpec" (dict "root" . "component" "head" "settings" $ray.head "image" "control" "user" "control") | nindent 6 }}
workerGroupSpecs:
  {{- if .Values.actors.enabled }}
  {{- include "troupe.ray.group" (dict "root" . "component" "actor" "settings" .Values.actors "image" "actor" "user" "actor") | nindent 2 }}
  {{- end }}
  {{- if .Values.rollouts.enabled }}
  {{- include "troupe.ray.group" (dict "root" . "component" "rollout" "settings" .Values.rollouts "image" "rollout" "user" "actor") | nindent 2 }}
  {{- end }}
  {{- if .Values.learners.enabled }}
  {{- include "troupe.ray.group" (dict "root" . "component" "learner" "settings" .Values.learners "image" "learner" "user" "learner") | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "troupe.ray.group" -}}
{{- $settings := .settings -}}
- groupName: {{ .component }}
  replicas: {{ $settings.replicas }}
  {{- if .root.Values.ray.autoscaling.enabled }}
  minReplicas: {{ $settings.minReplicas }}
  maxReplicas: {{ $settings.maxReplicas }}
  {{- else }}
  minReplicas: {{ $settings.replicas }}
  maxReplicas: {{ $settings.replicas }}
  {{- end }}
  rayStartParams:
    {{- include "troupe.ray.startParams" (dict "settings" $settings "fixed" (dict "resources" (printf "\"{\\\"%s\\\": 1000}\"" .component))) | nindent 4 }}
  template:
    metadata:
      {{- include "troupe.ray.podMetadata" . | nindent 6 }}
    spec:
      {{- include "troupe.ray.podSpec" . | nindent 6 }}
{{- end }}

{{/* Which groups a job's workers are put on, as overrides of the job; its own come behind and win. */}}
{{- define "troupe.ray.places" -}}
{{- if and .Values.actors.enabled (not .Values.rollouts.enabled) }}
- "cluster.actor.resources={actor: 1}"
{{- end }}
{{- if .Values.learners.enabled }}
- "cluster.learner.resources={learner: 1}"
{{- end }}
{{- if .Values.ray.autoscaling.enabled }}
- cluster.autoscaled=true
{{- end }}
{{- end }}

{{/* Weights travel through the weight server: Ray's own object store stays small. */}}
{{- define "troupe.ray.startParams" -}}
{{- $ports := include "troupe.ray.ports" . | fromYaml -}}
{{- $own := dict "object-store-memory" "268435456" -}}
{{- toYaml (merge (dict) .settings.rayStartParams .fixed $own $ports) }}
{{- end }}

{{- define "troupe.ray.podMetadata" -}}
labels:
  {{- include "troupe.podLabels" . | nindent 2 }}
{{- with merge (dict) .settings.podAnnotations .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "troupe.ray.podSpec" -}}
{{- $root := .root -}}
{{- $spot := default dict .settings.spot -}}
{{- $head := eq .component "head" -}}
{{- include "troupe.podSpec" (dict "root" $root "settings" .settings "graceSeconds" $root.Values.ray.graceSeconds "tolerations" (ternary $spot.tolerations list (default false $spot.enabled))) }}
{{- if .settings.spread }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "troupe.selector" . | nindent 8 }}
{{- end }}
containers:
  - name: ray-{{ .component }}
    image: {{ include "troupe.image" (dict "root" $root "name" .image) }}
    imagePullPolicy: {{ $root.Values.images.pullPolicy }}
    securityContext:
      {{- include "troupe.containerSecurity" $root | nindent 6 }}
    resources:
      {{- include "troupe.resources" .settings | nindent 6 }}
    ports:
      {{- range $name, $port := include "troupe.ray.nodePorts" $root | fromYaml }}
      - {name: {{ $name }}, containerPort: {{ $port }}}
      {{- end }}
      {{- if $head }}
      {{- range $name, $port := include "troupe.ray.headPorts" $root | fromYaml }}
      - {name: {{ $name }}, containerPort: {{ $port }}}
      {{- end }}
      {{- end }}
    env:
      {{- include "troupe.writable" $root | nindent 6 }}
      - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
      - {name: RAY_worker_niceness, value: "0"}
      - {name: OPENBLAS_NUM_THREADS, value: "1"}
      - {name: RAY_JOB_STOP_WAIT_TIME_S, value: {{ $root.Values.ray.graceSeconds | quote }}}
      {{- if $head }}
      - name: TROUPE_METRICS_TOKEN
        valueFrom:
          secretKeyRef:
            name: {{ include "troupe.secret.metrics" $root }}
            key: token
      {{- end }}
      {{- if and $head (include "troupe.bundledGcs" $root) }}
      - {name: RAY_REDIS_CA_CERT, value: /etc/troupe-tls/ca.crt}
      {{- end }}
      {{- include "troupe.connections" . | nindent 6 }}
      {{- with concat $root.Values.env .settings.env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- include "troupe.ray.probes" . | nindent 4 }}
    lifecycle:
      preStop:
        exec:
          command: [/bin/sh, /etc/troupe/drain.sh, {{ sub (int64 $root.Values.ray.graceSeconds) 5 | quote }}]
    volumeMounts:
      - {name: scratch, mountPath: /tmp}
      - {name: shared-memory, mountPath: /dev/shm}
      - {name: settings, mountPath: /etc/troupe, readOnly: true}
      - {name: runs, mountPath: /runs}
      {{- include "troupe.certificateMounts" $root | nindent 6 }}
      {{- with $root.Values.volumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: scratch
    emptyDir: {}
  - name: shared-memory
    emptyDir:
      medium: Memory
      sizeLimit: {{ .settings.sharedMemory }}
  - name: settings
    configMap:
      name: {{ include "troupe.fullname" $root }}-settings
  - name: runs
    persistentVolumeClaim:
      claimName: {{ include "troupe.runsClaim" $root }}
  {{- include "troupe.certificateVolumes" $root | nindent 2 }}
  {{- if and $head $root.Values.ray.autoscaling.enabled }}
  {{- include "troupe.ray.apiAccess" $root | nindent 2 }}
  {{- end }}
  {{- with $root.Values.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* What a service account's mount would hold, for the autoscaler's container and no other. */}}
{{- define "troupe.ray.apiAccess" -}}
- name: api-access
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
      - downwardAPI:
          items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end }}

{{/* A group's resources with its GPUs. */}}
{{- define "troupe.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if and .gpu .gpu.count -}}
{{- $_ := set $resources.requests .gpu.resource .gpu.count -}}
{{- $_ := set $resources.limits .gpu.resource .gpu.count -}}
{{- end -}}
{{- toYaml $resources }}
{{- end }}

{{/* KubeRay's own would need wget in the image; these paths ask for no token. */}}
{{- define "troupe.ray.probes" -}}
{{- $get := ternary (dict "path" "/api/gcs_healthz" "port" "dashboard") (dict "path" "/api/local_raylet_healthz" "port" "agent") (eq .component "head") -}}
startupProbe:
  httpGet: {{ toJson $get }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
readinessProbe:
  httpGet: {{ toJson $get }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
livenessProbe:
  httpGet: {{ toJson $get }}
  periodSeconds: 15
  timeoutSeconds: 5
  failureThreshold: 8
{{- end }}
