{{- /* The image of agents and managers. */ -}}
{{- define "virtsync.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* The port of the Pods of a component. Takes the context and the name of the component, like those below. */ -}}
{{- define "virtsync.port" -}}
{{- $values := index (index . 0).Values (index . 1) -}}
{{- index $values.settings "http-port" | default 8080 -}}
{{- end }}

{{- /* The annotations that a component's Pods have because of the values. */ -}}
{{- define "virtsync.podAnnotations" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
{{- $found := deepCopy $values.podAnnotations -}}
{{- if $root.Values.scrapeAnnotations -}}
{{- $port := include "virtsync.port" . -}}
{{- $found = merge $found (dict "prometheus.io/scrape" "true" "prometheus.io/port" $port "prometheus.io/path" "/metrics") -}}
{{- end -}}
{{- with $found }}{{ toYaml . }}{{ end -}}
{{- end }}

{{- /* The variables that a component has because of the values. */ -}}
{{- define "virtsync.env" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
{{- $settings := deepCopy $values.settings -}}
{{- if $root.Values.logLevel }}{{ $_ := set $settings "log-level" $root.Values.logLevel }}{{ end -}}
{{- if $root.Values.logFormat }}{{ $_ := set $settings "log-format" $root.Values.logFormat }}{{ end -}}
{{- if and $root.Values.observeOnly (eq (index . 1) "agent") -}}
{{- $_ := set $settings "observe-only" true -}}
{{- /* Over this socket libvirt itself refuses to switch anything. */ -}}
{{- $settings = merge $settings (dict "libvirt-uri" "qemu+unix:///system?socket=/run/libvirt/libvirt-sock-ro") -}}
{{- end -}}
{{- $found := list -}}
{{- range $name, $value := $settings -}}
{{- $variable := eq $name "libvirt-uri" | ternary "LIBVIRT_URI" (printf "VIRTSYNC_%s" ($name | replace "-" "_" | upper)) -}}
{{- $text := kindIs "string" $value | ternary $value ($value | toJson) -}}
{{- $found = append $found (dict "name" $variable "value" $text) -}}
{{- end -}}
{{- with concat $found $values.env }}{{ toYaml . }}{{ end -}}
{{- end }}

{{- /* The user of the agents. One who only observes is an ordinary user: nobody. */ -}}
{{- define "virtsync.agentSecurityContext" -}}
{{- $found := deepCopy .Values.agent.podSecurityContext -}}
{{- if .Values.observeOnly -}}
{{- /* Nor has it a group, such as the one of libvirt's other socket. */ -}}
{{- $found = mergeOverwrite (omit $found "supplementalGroups") (dict "runAsNonRoot" true "runAsUser" 65534 "runAsGroup" 65534) -}}
{{- end -}}
{{- toYaml $found -}}
{{- end }}
