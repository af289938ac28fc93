{{/* Names. */}}
{{- define "bartizan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "bartizan.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "bartizan.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "bartizan.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "bartizan.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "bartizan.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The labels by which Services, policies and budgets find the pods: they never change. */}}
{{- define "bartizan.selector" -}}
app.kubernetes.io/name: {{ include "bartizan.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bartizan.labels" -}}
{{ include "bartizan.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Ours last: a label of the user's cannot take a pod from its policies. */}}
{{- define "bartizan.podLabels" -}}
{{- toYaml (merge (fromYaml (include "bartizan.selector" .)) .Values.podLabels .Values.commonLabels) }}
{{- end }}

{{- define "bartizan.podAnnotations" -}}
{{- if .Values.rollOnConfigChange }}
checksum/config: {{ toYaml .Values.config | sha256sum }}
{{- end }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The digest is what is run; a tag can be moved. */}}
{{- define "bartizan.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* The port of an address HOST:PORT. */}}
{{- define "bartizan.port" -}}
{{- if not (regexMatch "^.+:[0-9]+$" .) }}
{{- fail (printf "%s is no HOST:PORT: other pods could not reach it" .) }}
{{- end }}
{{- regexFind "[0-9]+$" . }}
{{- end }}

{{- define "bartizan.httpPort" -}}{{ include "bartizan.port" .Values.config.listen }}{{- end }}
{{- define "bartizan.adminPort" -}}{{ include "bartizan.port" .Values.config.admin.listen }}{{- end }}
{{- define "bartizan.grpcPort" -}}
{{- with .Values.config.grpc }}{{ include "bartizan.port" (default "127.0.0.1:8001" .listen) }}{{ end }}
{{- end }}

{{/* Whether Knative runs the pods: "true" or nothing. */}}
{{- define "bartizan.knative" -}}
{{- if and (eq .Values.mode "kserve") (has .Values.kserve.deploymentMode (list "Knative" "Serverless")) }}true{{ end }}
{{- end }}

{{/* Whether a Deployment is ours: "true" or nothing. */}}
{{- define "bartizan.deployment" -}}
{{- if has .Values.mode (list "gateway" "sidecar") }}true{{ end }}
{{- end }}

{{- define "bartizan.scaled" -}}
{{- if or .Values.autoscaling.enabled .Values.keda.enabled }}true{{ end }}
{{- end }}
