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
