local annotations = obj.metadata.annotations or {}
annotations["hold.virtsync.dev/argocd"] = nil
-- Argo CD replaces an empty table by the value before the action, so the hold would stay.
if next(annotations) == nil then
  obj.metadata.annotations = nil
end
return obj
