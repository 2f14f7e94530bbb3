-- The health of a Hypervisor in Argo CD: that of the agent's report, and of a maintenance.
local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local ready, quiesced = conditions.Ready, conditions.Quiesced

if ready == nil or ready.reason == "Pending" then
  return { status = "Progressing", message = "No agent has reported on this host yet" }
end

if ready.status == "Unknown" then
  return { status = "Degraded", message = ready.reason .. ": " .. (ready.message or "") }
end

if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "The agent has not observed this spec yet" }
end

if obj.spec ~= nil and obj.spec.maintenance ~= nil then
  if quiesced ~= nil and quiesced.status == "True" then
    return { status = "Suspended", message = "Maintenance: " .. (quiesced.message or "") }
  end
  local why = quiesced ~= nil and quiesced.message or "The agent has not acknowledged it yet."
  return { status = "Progressing", message = "Maintenance: " .. why }
end

local health = ready.status == "True" and "Healthy" or "Degraded"
return { status = health, message = ready.reason .. ": " .. (ready.message or "") }
