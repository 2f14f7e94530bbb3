local power = (obj.spec or {}).powerState
local held = (obj.metadata.annotations or {})["hold.virtsync.dev/argocd"] ~= nil
return {
  restart = { disabled = power ~= "Running", displayName = "Restart" },
  start = { disabled = power == "Running", displayName = "Start" },
  stop = { disabled = power == "Stopped", displayName = "Shut down" },
  hold = { disabled = held, displayName = "Hold" },
  release = { disabled = not held, displayName = "Release" },
}
