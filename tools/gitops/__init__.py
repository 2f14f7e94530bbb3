"""GitOps engines on the lab: a Git server, and the real Flux and Argo CD."""
