obj.spec = obj.spec or {}
obj.spec.powerState = "Running"
return obj
