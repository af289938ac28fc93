{{/* What no schema can say: values that contradict each other. Rendered once, with the ConfigMap. */}}
{{- define "bartizan.checks" -}}
{{- $state := default "memory://" .Values.config.state }}
{{- $policy := .Values.networkPolicy }}
{{- if and (include "bartizan.deployment" .) (eq $state "memory://") (or (include "bartizan.scaled" .) (gt (int .Values.replicaCount) 1)) }}
{{- fail "several pods need a config.state that they share: with memory:// each would grant every client the whole quota. Name a Redis, or set replicaCount to 1" }}
{{- end }}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled }}
{{- fail "autoscaling and keda would fight over the number of pods: enable one" }}
{{- end }}
{{- if and (include "bartizan.scaled" .) (not (include "bartizan.deployment" .)) }}
{{- fail (printf "autoscaling and keda scale a Deployment of ours: in mode %s the operator scales" .Values.mode) }}
{{- end }}
{{- range $name := list "autoscaling" "keda" }}
{{- $range := index $.Values $name }}
{{- if lt (int $range.maxReplicas) (int $range.minReplicas) }}
{{- fail (printf "%s.maxReplicas is less than minReplicas" $name) }}
{{- end }}
{{- end }}
{{- if and .Values.keda.enabled (not .Values.keda.serverAddress) }}
{{- fail "keda.serverAddress is needed: the Prometheus that KEDA asks" }}
{{- end }}
{{- $listening := dict "config.listen" .Values.config.listen "config.admin.listen" .Values.config.admin.listen }}
{{- with .Values.config.grpc }}
{{- $_ := set $listening "config.grpc.listen" (default "127.0.0.1:8001" .listen) }}
{{- end }}
{{- range $key, $address := $listening }}
{{- if regexMatch "^(127\\.|localhost:|\\[::1\\]|unix:)" $address }}
{{- fail (printf "%s is %s: neither clients nor the kubelet reach a loopback address" $key $address) }}
{{- end }}
{{- end }}
{{- if and $policy.enabled (ne $state "memory://") (not $policy.redis.peers) }}
{{- fail "networkPolicy.redis.peers is needed: config.state is shared, and nothing that is not named may be reached" }}
{{- end }}
{{- if eq .Values.mode "gateway" }}
{{- if .Values.model.containers }}
{{- fail "model.containers is for modes sidecar, kserve and seldon: a gateway's models run elsewhere" }}
{{- end }}
{{- if and $policy.enabled (not $policy.models) (not $policy.egress) }}
{{- fail "networkPolicy.models is needed: without it the gateway may reach no model, and everybody may. Where the models are outside the cluster, say so in networkPolicy.egress" }}
{{- end }}
{{- range $policy.models }}
{{- if and .metrics (not (default $policy.prometheus .metrics.from)) }}
{{- fail (printf "networkPolicy.models: %s names metrics, and nobody who may scrape them: name metrics.from or networkPolicy.prometheus, or everybody could" .name) }}
{{- end }}
{{- if and .metrics (eq (int .metrics.port) (int .port)) }}
{{- fail (printf "networkPolicy.models: %s answers metrics and clients on one port: who may scrape it could ask the model" .name) }}
{{- end }}
{{- end }}
{{- else }}
{{- if not .Values.model.containers }}
{{- fail (printf "mode %s needs model.containers: what the firewall stands beside" .Values.mode) }}
{{- end }}
{{- if $policy.models }}
{{- fail (printf "networkPolicy.models is for mode gateway: in mode %s the model is in the pod" .Values.mode) }}
{{- end }}
{{- end }}
{{- if eq .Values.mode "kserve" }}
{{- $names := list }}
{{- range .Values.model.containers }}
{{- $names = append $names .name }}
{{- if .ports }}
{{- fail (printf "the container %s declares ports: KServe would expose them beside the firewall, and Knative allows one" .name) }}
{{- end }}
{{- end }}
{{- if not (has "kserve-container" $names) }}
{{- fail "KServe wants the model in a container named kserve-container" }}
{{- end }}
{{- if and (eq .Values.kserve.kind "ServingRuntime") (not .Values.kserve.supportedModelFormats) }}
{{- fail "a ServingRuntime needs kserve.supportedModelFormats" }}
{{- end }}
{{- if and (eq .Values.kserve.kind "ServingRuntime") .Values.bundles.initContainer }}
{{- fail "a ServingRuntime has no init containers: take bundles.configMap or bundles.persistentVolumeClaim" }}
{{- end }}
{{- end }}
{{- if include "bartizan.knative" . }}
{{- if .Values.config.grpc }}
{{- fail "Knative allows one port in a pod: leave out config.grpc, or use deploymentMode RawDeployment" }}
{{- end }}
{{- if or .Values.audit.existingClaim .Values.bundles.image .Values.bundles.initContainer }}
{{- fail "Knative allows neither audit.existingClaim, nor bundles.image, nor bundles.initContainer as the chart renders them: take bundles.configMap or bundles.persistentVolumeClaim" }}
{{- end }}
{{- range .Values.model.containers }}
{{- if .lifecycle }}
{{- fail (printf "Knative allows no lifecycle: leave it out of the container %s" .name) }}
{{- end }}
{{- end }}
{{- range list (include "bartizan.httpPort" .) (include "bartizan.adminPort" .) }}
{{- if has . (list "8008" "8012" "8013" "8022" "8112" "9090" "9091") }}
{{- fail (printf "Knative's queue-proxy takes port %s in the pod: choose another for config.listen and config.admin.listen" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
