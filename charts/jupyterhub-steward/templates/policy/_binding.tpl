{{/* The binding of a policy to the release's namespace. Call with (dict "root" $ "name" "requested-by"). */}}
{{- define "steward.policyBinding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ include "steward.clusterName" . }}
  labels: {{- include "steward.labels" (dict "root" .root "component" "policy") | nindent 4 }}
spec:
  policyName: {{ include "steward.clusterName" . }}
  validationActions: [Deny]
  matchResources:
    namespaceSelector:
      matchLabels:
        kubernetes.io/metadata.name: {{ .root.Release.Namespace }}
{{- end }}

{{/* Metadata of a policy, and its match on the operator's service account. */}}
{{- define "steward.policyMetadata" -}}
name: {{ include "steward.clusterName" . }}
labels: {{- include "steward.labels" (dict "root" .root "component" "policy") | nindent 2 }}
{{- end }}
{{- define "steward.onlyTheOperator" -}}
- name: only-the-operator
  expression: request.userInfo.username == 'system:serviceaccount:{{ .Release.Namespace }}:operator'
{{- end }}

{{/* CEL: these fields of the metadata are as they were. Call with a list of names. */}}
{{- define "steward.unchanged" -}}
{{- range $n, $field := . }}
{{- if $n }} &&
{{ end -}}
has(object.metadata.{{ $field }}) == has(oldObject.metadata.{{ $field }}) &&
(!has(object.metadata.{{ $field }}) || object.metadata.{{ $field }} == oldObject.metadata.{{ $field }})
{{- end }}
{{- end }}
