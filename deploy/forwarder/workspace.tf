# A fragment for the Terraform template of a workspace: starts a forwarder before the agent's user can start a boundary.
# Not run here: it needs a control plane. Names that begin with "your_" are yours.

resource "coder_script" "boundary_usage" {
  agent_id           = coder_agent.your_agent.id
  display_name       = "boundary-usage forwarder"
  run_on_start       = true
  start_blocks_login = true # a boundary that starts before the socket exists never connects
  script             = file("${path.module}/workspace.sh")
}

resource "coder_env" "boundary_usage_url" {
  agent_id = coder_agent.your_agent.id
  name     = "BOUNDARY_USAGE_URL"
  value    = "https://boundary-usage.example.com"
}

# A JWT with the claims workspace_id and owner_id, so that this workspace can report only for itself.
resource "coder_env" "boundary_usage_token" {
  agent_id = coder_agent.your_agent.id
  name     = "BOUNDARY_USAGE_TOKEN"
  value    = local.your_workspace_jwt
}
