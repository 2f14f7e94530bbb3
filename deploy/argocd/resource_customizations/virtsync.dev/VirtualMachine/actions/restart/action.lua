local os = require("os")
obj.spec.restartRequestTime = os.date("!%Y-%m-%dT%XZ")
return obj
