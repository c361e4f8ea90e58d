{{/* Names. The operator's defaults (settings.py) are those of a release called postern in postern-system. */}}
{{- define "postern.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains "postern" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-postern" (.Release.Name | trunc 32 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- define "postern.operator" -}}{{ include "postern.fullname" . }}-operator{{- end -}}
{{- define "postern.webhook" -}}{{ include "postern.fullname" . }}-webhook{{- end -}}
{{- define "postern.secret" -}}{{ include "postern.webhook" . }}-tls{{- end -}}
{{- define "postern.certificate" -}}{{ include "postern.webhook" . }}-cert-manager{{- end -}}
{{- define "postern.settingsName" -}}{{ include "postern.operator" . }}-settings{{- end -}}

{{- define "postern.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "postern.operator" .) -}}
{{- else -}}
{{- required "serviceAccount.name: say which ServiceAccount to use where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "postern.selectorLabels" -}}
app.kubernetes.io/name: postern
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* The chart's labels go last: they hold the objects together, whatever commonLabels says. */}}
{{- define "postern.labels" -}}
{{- $own := dict
  "app.kubernetes.io/name" "postern"
  "app.kubernetes.io/instance" .Release.Name
  "app.kubernetes.io/component" "operator"
  "app.kubernetes.io/version" (.Chart.AppVersion | toString)
  "app.kubernetes.io/managed-by" .Release.Service
  "helm.sh/chart" (printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_")) -}}
{{- toYaml (merge $own .Values.commonLabels) -}}
{{- end -}}

{{/* (dict "image" IMAGE "default" TAG): registry/repository:tag@digest */}}
{{- define "postern.image" -}}
{{- with .image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .image.repository }}:{{ .image.tag | default .default -}}
{{- with .image.digest }}@{{ . }}{{ end -}}
{{- end -}}
{{- define "postern.operatorImage" -}}{{ include "postern.image" (dict "image" .Values.operator.image "default" .Chart.AppVersion) }}{{- end -}}

{{/* The operator's settings file: postern_operator/settings.py. */}}
{{- define "postern.settings" -}}
{{- $secrets := list -}}
{{- range .Values.sidecar.imagePullSecrets }}{{ $secrets = append $secrets .name }}{{ end -}}
{{- $host := "" -}}
{{- with .Values.webhook.url }}{{ $host = (urlParse .).hostname }}{{ end -}}
{{- $sidecar := dict
  "image" (include "postern.image" (dict "image" .Values.sidecar.image "default" .Chart.AppVersion))
  "imagePullPolicy" .Values.sidecar.image.pullPolicy
  "imagePullSecrets" $secrets
  "resources" .Values.sidecar.resources
  "runAsUser" .Values.sidecar.runAsUser
  "adminPort" .Values.sidecar.adminPort
  "allowedImages" .Values.sidecar.allowedImages
  "allowTransparent" .Values.sidecar.allowTransparent -}}
{{- $webhook := dict
  "configuration" (include "postern.fullname" .)
  "service" (include "postern.webhook" .)
  "host" $host
  "failurePolicy" .Values.webhook.failurePolicy
  "certificates" .Values.webhook.certificates.mode
  "secret" (include "postern.secret" .) -}}
{{- toYaml (dict
  "namespace" .Release.Namespace
  "serviceAccount" (include "postern.serviceAccount" .)
  "lease" (include "postern.operator" .)
  "watchNamespaces" .Values.operator.watchNamespaces
  "evictUninjected" .Values.evictUninjected
  "sidecar" $sidecar
  "webhook" $webhook) -}}
{{- end -}}

{{/* For the restricted Pod Security Standard. */}}
{{- define "postern.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end -}}
{{- define "postern.containerSecurityContext" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{/* What the operator may do where there are policies: everywhere, or in each of watchNamespaces. */}}
{{- define "postern.namespacedRules" -}}
- apiGroups: [postern.dev]
  resources: [mailproxypolicies]
  verbs: [get, list, watch]
- apiGroups: [postern.dev]
  resources: [mailproxypolicies/status]
  verbs: [patch]
# Patch, and the configuration of sidecars below: what may be changed is narrowed by the ValidatingAdmissionPolicy.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- if .Values.evictUninjected }}
# Dry runs only, says the ValidatingAdmissionPolicy: would a new pod come injected?
- apiGroups: [""]
  resources: [pods]
  verbs: [create]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
{{- end }}
{{- end }}

{{/* The account of `helm test`. */}}
{{- define "postern.check" -}}{{ include "postern.fullname" . }}-check{{- end -}}
