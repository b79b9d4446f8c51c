{{/* Ray takes its ports at random unless told otherwise; the network policies name them. */}}

{{- define "troupe.ray.nodePorts" -}}
node-manager: 6381
object-manager: 6382
runtime-env: 6383
agent-grpc: 6384
agent: 52365
metrics: 8080
{{- end }}

{{- define "troupe.ray.headPorts" -}}
gcs: 6379
dashboard: 8265
client: 10001
troupe-metrics: {{ .Values.metrics.port }}
{{- end }}

{{- define "troupe.ray.ports" -}}
node-manager-port: "6381"
object-manager-port: "6382"
runtime-env-agent-port: "6383"
dashboard-agent-grpc-port: "6384"
dashboard-agent-listen-port: "52365"
metrics-export-port: "8080"
min-worker-port: "10002"
max-worker-port: "10999"
{{- end }}

{{/* From which the kernel takes a free port for ranks of a learner: Linux's own default. */}}
{{- define "troupe.freePorts" -}}
{protocol: TCP, port: 32768, endPort: 60999}
{{- end }}
