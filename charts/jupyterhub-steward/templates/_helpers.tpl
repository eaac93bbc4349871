{{/* Labels that selectors are made of. They are immutable, and the same as z2jh's. Call with (dict "root" $ "component" "hub"). */}}
{{- define "steward.selector" -}}
app: {{ .root.Values.nameOverride }}
component: {{ .component }}
release: {{ .root.Release.Name }}
{{- end }}

{{/* All labels of an object: z2jh's old family and the recommended one. */}}
{{- define "steward.labels" -}}
{{ include "steward.selector" . }}
chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
heritage: {{ .root.Release.Service }}
app.kubernetes.io/name: {{ .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: hub-steward
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Name of an object outside the namespace. */}}
{{- define "steward.clusterName" -}}
hubsteward-{{ .root.Release.Namespace }}-{{ .root.Release.Name }}-{{ .name }}
{{- end }}

{{/* Reference of an image. Call with (dict "root" $ "image" .Values.hub.image). */}}
{{- define "steward.image" -}}
{{ .image.name }}:{{ .image.tag | default .root.Chart.Version }}
{{- end }}

{{/* Pull secrets as a list of objects. */}}
{{- define "steward.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Name of the Secret of a generated value. Call with (dict "root" $ "value" "cookieSecret" "name" "cookie-secret"). */}}
{{- define "steward.secretName" -}}
{{- $given := index .root.Values.secrets .value -}}
{{- $given.existingSecret | default (printf "hubsteward-%s" .name) -}}
{{- end }}

{{/* An environment variable from such a Secret; "variable" is its name. */}}
{{- define "steward.secretEnv" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ include "steward.secretName" . }}
      key: value
{{- end }}

{{/* Security contexts that the restricted standard asks for. */}}
{{- define "steward.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "steward.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Egress rules that every policy needs: the cluster's DNS. */}}
{{- define "steward.egressDns" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}
{{/* Egress to the API server, whose address a policy cannot name. */}}
{{- define "steward.egressApiServer" -}}
- ports:
    - {protocol: TCP, port: 443}
    - {protocol: TCP, port: 6443}
{{- end }}
