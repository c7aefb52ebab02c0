#!/bin/sh
# For the start-up script of a workspace template: starts a forwarder, and returns once it accepts connections.
# Run it before the first boundary. It expects the variables of forward.env.example in the environment.
set -eu

state=${XDG_STATE_HOME:-$HOME/.local/state}/boundary-usage
mkdir -p "$state"
export BOUNDARY_USAGE_SOCKET="${BOUNDARY_USAGE_SOCKET:-/tmp/boundary-usage.sock}"
export BOUNDARY_USAGE_SPOOL="${BOUNDARY_USAGE_SPOOL:-$state/spool}"
export BOUNDARY_USAGE_TEE="${BOUNDARY_USAGE_TEE:-/tmp/boundary-audit.sock}"

# Starts it again unless it was told to end (status 0) or its settings are invalid (status 2).
run() {
  until
    status=0
    boundary-usage forward || status=$?
    [ "$status" = 0 ] || [ "$status" = 2 ]
  do
    sleep 1
  done
}

run >>"$state/forward.log" 2>&1 &
boundary-usage forward --wait
