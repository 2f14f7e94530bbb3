obj.metadata.annotations = obj.metadata.annotations or {}
obj.metadata.annotations["hold.virtsync.dev/argocd"] = "held in Argo CD"
return obj
