if obj.metadata.annotations ~= nil then
  obj.metadata.annotations["hold.virtsync.dev/argocd"] = nil
end
return obj
