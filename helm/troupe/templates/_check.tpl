{{/* What the schema cannot say: values that do not go together. */}}
{{- define "troupe.check" -}}
{{- $values := .Values -}}
{{- if and (eq $values.mode "job") (not $values.job.spec) -}}
{{- fail "job.spec: mode job needs the job file's text: --set-file job.spec=examples/doudizhu.yaml" -}}
{{- end -}}
{{- if and (eq $values.mode "cluster") (or $values.job.spec $values.job.name) -}}
{{- fail "job: mode cluster runs no job of its own; set mode=job, or submit the job with: troupe submit" -}}
{{- end -}}
{{- if and $values.kueue.queue $values.ray.autoscaling.enabled (not $values.kueue.elastic) -}}
{{- fail "ray.autoscaling.enabled: Kueue admits groups of a fixed size; set it to false, or kueue.elastic=true" -}}
{{- end -}}
{{- if ne (empty $values.tls.existingServerSecret) (empty $values.tls.existingClientSecret) -}}
{{- fail "tls: existingServerSecret and existingClientSecret are signed by one authority; give both or neither" -}}
{{- end -}}
{{- if and $values.store.externalUrl (not $values.store.existingSecret) -}}
{{- fail "store.existingSecret: an external store has passwords of its own; name the Secret that holds them" -}}
{{- end -}}
{{- if and $values.ray.faultTolerance.externalAddress (not $values.ray.faultTolerance.existingSecret) -}}
{{- fail "ray.faultTolerance.existingSecret: an external Redis has a password of its own; name the Secret that holds it" -}}
{{- end -}}
{{- if and $values.ray.faultTolerance.externalAddress (eq $values.ray.faultTolerance.externalAddress $values.store.externalUrl) -}}
{{- fail "ray.faultTolerance.externalAddress: is the replay store, which may fill up; give Ray another Redis" -}}
{{- end -}}
{{- range $name := list "actors" "learners" "rollouts" -}}
{{- $group := index $values $name -}}
{{- if and $values.ray.autoscaling.enabled (or (gt (int $group.minReplicas) (int $group.replicas)) (gt (int $group.replicas) (int $group.maxReplicas))) -}}
{{- fail (printf "%s.replicas: %d is not between minReplicas %d and maxReplicas %d" $name (int $group.replicas) (int $group.minReplicas) (int $group.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end }}
