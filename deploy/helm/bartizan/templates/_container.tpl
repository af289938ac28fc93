{{/*
The firewall's container: the one source of it in every mode.
Takes a dict of `root`, and `name`, and in a native sidecar `restartPolicy`.
*/}}
{{- define "bartizan.container" -}}
{{- $root := .root }}
{{- $knative := include "bartizan.knative" $root }}
{{- $values := $root.Values -}}
name: {{ .name }}
image: {{ include "bartizan.image" $root | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
args: [run, /etc/bartizan/bartizan.yaml]
{{- with .restartPolicy }}
restartPolicy: {{ . }}
{{- end }}
env:
  {{- range $variable, $key := $values.secrets.keys }}
  - name: {{ $variable }}
    valueFrom:
      secretKeyRef:
        name: {{ $values.secrets.existingSecret }}
        key: {{ $key }}
  {{- end }}
  {{- if $values.audit.existingClaim }}
  - name: POD_NAME
    valueFrom:
      fieldRef: {fieldPath: metadata.name}
  {{- end }}
  {{- with $values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - name: {{ if $knative }}http1{{ else }}http{{ end }}
    containerPort: {{ include "bartizan.httpPort" $root }}
    protocol: TCP
  {{- /* KServe would put every port that is declared here into its Service. */}}
  {{- if ne $values.mode "kserve" }}
  - name: admin
    containerPort: {{ include "bartizan.adminPort" $root }}
    protocol: TCP
  {{- end }}
  {{- with include "bartizan.grpcPort" $root }}
  - name: grpc
    containerPort: {{ . }}
    protocol: TCP
  {{- end }}
{{- $health := dict "path" "/healthz" "port" (include "bartizan.adminPort" $root | int) }}
{{- $ready := dict "path" "/readyz" "port" (include "bartizan.adminPort" $root | int) }}
{{- if not $knative }}
startupProbe:
  httpGet: {{- toYaml $health | nindent 4 }}
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 60
{{- end }}
livenessProbe:
  httpGet: {{- toYaml $health | nindent 4 }}
  {{- if $knative }}
  initialDelaySeconds: 30
  {{- end }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {{- toYaml $ready | nindent 4 }}
  periodSeconds: 5
  timeoutSeconds: 2
  failureThreshold: 2
{{- /* A native sidecar is told to end after the model has ended: it need not wait. Knative waits itself. */}}
{{- if and (not .restartPolicy) (not $knative) (gt (int $values.preStopSeconds) 0) }}
lifecycle:
  preStop:
    sleep: {seconds: {{ $values.preStopSeconds }}}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  {{- /* Knative refuses it, unless a feature is switched on; the image's user has the group. */}}
  {{- if not $knative }}
  runAsGroup: 65532
  {{- end }}
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
resources:
  {{- toYaml $values.resources | nindent 2 }}
volumeMounts:
  - name: bartizan-config
    mountPath: /etc/bartizan
    readOnly: true
  - name: bartizan-audit
    mountPath: /var/log/bartizan
    {{- if $values.audit.existingClaim }}
    subPathExpr: $(POD_NAME)
    {{- end }}
  - name: bartizan-tmp
    mountPath: /tmp
  {{- if $values.bundles }}
  - name: bartizan-bundles
    mountPath: /var/lib/bartizan/bundles
    readOnly: true
  {{- end }}
  {{- if $values.apiKeys.existingSecret }}
  - name: bartizan-keys
    mountPath: /var/lib/bartizan/keys
    readOnly: true
  {{- end }}
  {{- if $values.tls.existingSecret }}
  - name: bartizan-tls
    mountPath: /var/lib/bartizan/tls
    readOnly: true
  {{- end }}
  {{- with $values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The volumes that it mounts. */}}
{{- define "bartizan.volumes" -}}
{{- $values := .Values -}}
- name: bartizan-config
  configMap:
    name: {{ include "bartizan.fullname" . }}
- name: bartizan-audit
  {{- if $values.audit.existingClaim }}
  persistentVolumeClaim: {claimName: {{ $values.audit.existingClaim }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ $values.audit.size }}}
  {{- end }}
- name: bartizan-tmp
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- with $values.bundles }}
- name: bartizan-bundles
  {{- if .configMap }}
  configMap: {name: {{ .configMap }}}
  {{- else if .persistentVolumeClaim }}
  persistentVolumeClaim: {claimName: {{ .persistentVolumeClaim }}, readOnly: true}
  {{- else if .image }}
  image: {{- toYaml .image | nindent 4 }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- /* Where the pod is an operator's, no fsGroup gives the firewall's user a Secret's files. Nobody
else mounts them. */}}
{{- $mode := ternary "0440" "0444" (eq (include "bartizan.deployment" .) "true") }}
{{- with $values.apiKeys.existingSecret }}
- name: bartizan-keys
  secret: {secretName: {{ . }}, defaultMode: {{ $mode }}}
{{- end }}
{{- with $values.tls.existingSecret }}
- name: bartizan-tls
  secret: {secretName: {{ . }}, defaultMode: {{ $mode }}}
{{- end }}
{{- with $values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What fetches the bundles, before anything else starts: a list of one init container, or nothing. */}}
{{- define "bartizan.fetcher" -}}
{{- with .Values.bundles.initContainer -}}
- name: bundles
  {{- toYaml . | nindent 2 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 256Mi}
  volumeMounts:
    - name: bartizan-bundles
      mountPath: /var/lib/bartizan/bundles
{{- end }}
{{- end }}
