-- The health of a VirtualMachine in Argo CD. docs/api.md of virtsync lists the health of each reason.
local suspended = { Held = true, ObserveOnly = true }
-- virtsync retries after these failures, so the condition Reconciling is True.
local failing = { StartFailed = true, CrashLoopBackOff = true, PausedByIOError = true, ActionFailed = true }

local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
local ready = conditions.Ready

if ready == nil then
  return { status = "Progressing", message = "No agent has observed the VM yet" }
end

local message = ready.reason .. ": " .. (ready.message or "")

-- Before the comparison of generations: while the state is unknown, observedGeneration does not follow the spec.
if ready.status == "Unknown" then
  return { status = ready.reason == "Pending" and "Progressing" or "Degraded", message = message }
end

if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "The agent of the node has not observed this spec yet" }
end

local reconciling = conditions.Reconciling ~= nil and conditions.Reconciling.status == "True"
local health = "Degraded"
if ready.status == "True" then
  health = "Healthy"
elseif suspended[ready.reason] then
  health = "Suspended"
elseif reconciling and not failing[ready.reason] then
  health = "Progressing"
end
return { status = health, message = message }
