{{- define "routesync.name" -}}
{{- if contains "routesync" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-routesync" .Release.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "routesync.selector" -}}
app.kubernetes.io/name: routesync
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "routesync.labels" -}}
{{ include "routesync.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "routesync.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}{{ end }}
{{- end }}

{{- /* The user in the pod. Kubernetes gives a user who is not root no capability, and guard needs one. */ -}}
{{- define "routesync.uid" -}}
{{- if eq .Values.mode "guard" }}0{{ else }}65532{{ end }}
{{- end }}

{{- /* A key of TOML: quoted, unless it may stand bare. A dot would make a table of it. */ -}}
{{- define "routesync.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toJson . }}{{ end }}
{{- end }}

{{- /* A value of TOML on one line. JSON's strings, numbers and lists of them are TOML as well. */ -}}
{{- define "routesync.tomlValue" -}}
{{- if kindIs "map" . -}}
{ {{- $first := true }}{{ range $key, $value := . }}{{ if not $first }},{{ end }} {{ include "routesync.tomlKey" $key }} = {{ include "routesync.tomlValue" $value }}{{ $first = false }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $value := . }}{{ if $index }}, {{ end }}{{ include "routesync.tomlValue" $value }}{{ end }}]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end }}

{{- /* The keys of a table; lists of tables follow as [[NAME.KEY]]. Takes a list of NAME and the table. */ -}}
{{- define "routesync.tomlTable" -}}
{{- $name := index . 0 }}{{ $table := index . 1 }}
{{- range $key, $value := $table }}
{{- if not (and (kindIs "slice" $value) $value (kindIs "map" (first $value))) }}
{{ include "routesync.tomlKey" $key }} = {{ include "routesync.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := $table }}
{{- if and (kindIs "slice" $value) $value (kindIs "map" (first $value)) }}
{{- range $value }}

[[{{ $name }}.{{ $key }}]]
{{- range $inner, $setting := . }}
{{ include "routesync.tomlKey" $inner }} = {{ include "routesync.tomlValue" $setting }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "routesync.toml" -}}
{{- $config := deepCopy .Values.config }}
{{- $port := int .Values.metrics.port }}
{{- $listen := ternary (printf "%s:%d" .Values.metrics.address $port) (printf "127.0.0.1:%d" $port) .Values.metrics.enabled }}
{{- $_ := set $config "control" (set (default dict $config.control) "listen" $listen) -}}
mode = {{ ternary "observe" .Values.mode (eq .Values.mode "withdraw") | quote }}
{{- range $key, $value := $config }}
{{- if not (or (kindIs "map" $value) (kindIs "slice" $value)) }}
{{ include "routesync.tomlKey" $key }} = {{ include "routesync.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $key, $value := $config }}
{{- if kindIs "map" $value }}

[{{ $key }}]
{{- include "routesync.tomlTable" (list $key $value) }}
{{- else if kindIs "slice" $value }}
{{- range $value }}

[[{{ $key }}]]
{{- range $inner, $setting := . }}
{{ include "routesync.tomlKey" $inner }} = {{ include "routesync.tomlValue" $setting }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "routesync.volumeMounts" -}}
- {name: config, mountPath: /etc/routesync, readOnly: true}
- {name: state, mountPath: /var/lib/routesync}
- {name: runtime, mountPath: /run/routesync}
- {name: tmp, mountPath: /tmp}
{{- if .Values.credentials }}
- {name: credentials, mountPath: /run/credentials/routesync, readOnly: true}
{{- end }}
{{- end }}

{{- define "routesync.volumes" -}}
- name: config
  configMap: {name: {{ include "routesync.name" . }}}
- name: state
  hostPath: {path: {{ .Values.statePath | quote }}, type: DirectoryOrCreate}
- name: runtime
  hostPath: {path: {{ .Values.runtimePath | quote }}, type: DirectoryOrCreate}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
{{- if .Values.credentials }}
- name: credentials
  secret: {secretName: {{ .Values.credentials | quote }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "routesync.env" -}}
- name: ROUTESYNC_NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
# for ${NODE_NAME} and ${NODE_IP} in the configuration
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: NODE_IP
  valueFrom: {fieldRef: {fieldPath: status.hostIP}}
{{- if .Values.credentials }}
- {name: CREDENTIALS_DIRECTORY, value: /run/credentials/routesync}
{{- end }}
{{- end }}

{{- define "routesync.podSecurity" -}}
runAsNonRoot: {{ ne .Values.mode "guard" }}
runAsUser: {{ include "routesync.uid" . }}
runAsGroup: {{ include "routesync.uid" . }}
fsGroup: {{ include "routesync.uid" . }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "routesync.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- if eq .Values.mode "guard" }}
  add: [NET_ADMIN]
{{- end }}
{{- end }}
