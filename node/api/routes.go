package api

import "net/http"

// Access says who may call a route.
type Access int

// From the widest to the narrowest.
const (
	Anyone   Access = iota // also without a certificate: join, and the question whether one is a member
	Reader                 // people with any role, and nodes
	Operator               // people who may change jobs
	Admin                  // people who may change the cluster
	NodeOnly               // nodes of the cluster
)

// Where says which node answers a route.
type Where int

// Places.
const (
	Here     Where = iota // the asked node
	AtLeader              // the leader; without one the request fails
	Fresh                 // the leader, or without one this node's own state, marked stale
	AtOwner               // the node that runs the task {task}
	AtNode                // the node that the query's node names; the asked one without
)

// Route is one line of the protocol.
type Route struct {
	Method string
	Path   string // as http.ServeMux patterns
	Access Access
	Where  Where
	handle func(*Server, http.ResponseWriter, *http.Request)
}

// Routes is the whole protocol, but for the image distribution under /v2/, which nodes serve each other.
var Routes = []Route{
	{"GET", "/v1/status", Reader, Here, (*Server).status},
	{"GET", "/v1/jobs", Reader, Fresh, (*Server).jobs},
	{"GET", "/v1/jobs/{job}", Reader, Fresh, (*Server).job},
	{"PUT", "/v1/jobs/{job}", Operator, AtLeader, (*Server).submit},
	{"DELETE", "/v1/jobs/{job}", Operator, AtLeader, (*Server).removeJob},
	{"POST", "/v1/jobs/{job}/stop", Operator, AtLeader, (*Server).stopJob},
	{"POST", "/v1/jobs/{job}/start", Operator, AtLeader, (*Server).startJob},
	{"POST", "/v1/jobs/{job}/restart", Operator, AtLeader, (*Server).restartJob},
	{"POST", "/v1/jobs/{job}/promote", Operator, AtLeader, (*Server).promote},
	{"POST", "/v1/jobs/{job}/fail", Operator, AtLeader, (*Server).fail},
	{"POST", "/v1/jobs/{job}/scale", Operator, AtLeader, (*Server).scale},
	{"POST", "/v1/jobs/{job}/failover", Operator, AtLeader, (*Server).failover},
	{"POST", "/v1/jobs/{job}/services/{service}/run", Operator, AtLeader, (*Server).startRun},
	{"DELETE", "/v1/jobs/{job}/services/{service}/run", Operator, AtLeader, (*Server).stopRun},
	{"POST", "/v1/jobs/{job}/services/{service}/pause", Operator, AtLeader, (*Server).pauseSchedule},
	{"POST", "/v1/jobs/{job}/services/{service}/resume", Operator, AtLeader, (*Server).resumeSchedule},
	{"GET", "/v1/schedules", Reader, Fresh, (*Server).schedules},
	{"GET", "/v1/tasks", Reader, Fresh, (*Server).tasks},
	{"GET", "/v1/tasks/{task}", Reader, Fresh, (*Server).task},
	{"GET", "/v1/tasks/{task}/why", Reader, Fresh, (*Server).why},
	{"GET", "/v1/tasks/{task}/logs", Reader, AtOwner, (*Server).logs},
	{"GET", "/v1/tasks/{task}/stats", Reader, AtOwner, (*Server).stats},
	{"POST", "/v1/tasks/{task}/exec", Operator, AtOwner, (*Server).exec},
	{"POST", "/v1/tasks/{task}/attach", Operator, AtOwner, (*Server).attach},
	{"POST", "/v1/tasks/{task}/forward", Operator, AtOwner, (*Server).portForward},
	{"POST", "/v1/tasks/{task}/copyout", Operator, AtOwner, (*Server).copyOut},
	{"POST", "/v1/tasks/{task}/copyin", Operator, AtOwner, (*Server).copyIn},
	{"GET", "/v1/tasks/{task}/stat", Operator, AtOwner, (*Server).statPath},
	{"GET", "/v1/tasks/{task}/changes", Operator, AtOwner, (*Server).changes},
	{"GET", "/v1/tasks/{task}/processes", Reader, AtOwner, (*Server).processes},
	{"GET", "/v1/tasks/{task}/container", Reader, AtOwner, (*Server).container},
	{"POST", "/v1/tasks/{task}/pause", Operator, AtOwner, (*Server).pauseTask},
	{"POST", "/v1/tasks/{task}/unpause", Operator, AtOwner, (*Server).unpauseTask},
	{"POST", "/v1/tasks/{task}/kill", Operator, AtOwner, (*Server).killTask},
	{"GET", "/v1/nodes", Reader, Fresh, (*Server).nodes},
	{"POST", "/v1/nodes/{node}/drain", Admin, AtLeader, (*Server).drain},
	{"POST", "/v1/nodes/{node}/activate", Admin, AtLeader, (*Server).activate},
	{"POST", "/v1/nodes/{node}/labels", Admin, AtLeader, (*Server).labels},
	{"POST", "/v1/nodes/{node}/overcommit", Admin, AtLeader, (*Server).overcommit},
	{"GET", "/v1/settings", Reader, Fresh, (*Server).settings},
	{"POST", "/v1/settings", Admin, AtLeader, (*Server).setSettings},
	{"POST", "/v1/jobs/{job}/rehearse", Operator, AtLeader, (*Server).rehearse},
	{"DELETE", "/v1/nodes/{node}", Admin, AtLeader, (*Server).removeNode},
	{"GET", "/v1/rebalance", Reader, AtLeader, (*Server).rebalanceShown},
	{"POST", "/v1/rebalance", Operator, AtLeader, (*Server).rebalance},
	{"GET", "/v1/members", Reader, Here, (*Server).members},
	{"GET", "/v1/events", Reader, Fresh, (*Server).events},
	{"GET", "/v1/tokens", Admin, Fresh, (*Server).tokens},
	{"POST", "/v1/tokens", Admin, AtLeader, (*Server).createToken},
	{"DELETE", "/v1/tokens/{token}", Admin, AtLeader, (*Server).removeToken},
	{"GET", "/v1/images", Reader, AtNode, (*Server).images},
	{"GET", "/v1/images/inspect", Reader, AtNode, (*Server).inspectImage},
	{"GET", "/v1/images/save", Reader, AtNode, (*Server).saveImages},
	{"POST", "/v1/images/tag", Operator, AtNode, (*Server).tagImage},
	{"POST", "/v1/images/prune", Operator, AtNode, (*Server).pruneImages},
	{"POST", "/v1/images/verify", Operator, AtNode, (*Server).verifyImages},
	{"GET", "/v1/system/df", Reader, AtNode, (*Server).diskUsage},
	{"POST", "/v1/images/load", Operator, AtNode, (*Server).loadImage},
	{"POST", "/v1/images/pull", Operator, AtNode, (*Server).pullImage},
	{"DELETE", "/v1/images", Operator, AtNode, (*Server).removeImage},
	{"GET", "/v1/debug", Admin, Here, (*Server).debug},
	{"GET", "/v1/debug/state", Admin, Here, (*Server).stateHash},
	{"GET", "/v1/chaos", Reader, AtNode, (*Server).chaos},
	{"POST", "/v1/chaos/game", Admin, AtNode, (*Server).joinGame},
	{"DELETE", "/v1/chaos/game", Admin, AtNode, (*Server).stopGame},
	{"POST", "/v1/chaos/faults", Admin, AtNode, (*Server).inject},
	{"POST", "/v1/chaos/notes", Admin, AtLeader, (*Server).noteGame},

	{"POST", "/v1/join", Anyone, AtLeader, (*Server).join},
	{"GET", "/v1/membership", Anyone, AtLeader, (*Server).membership},
	{"POST", "/v1/renew", NodeOnly, AtLeader, (*Server).renew},
	{"POST", "/v1/register", NodeOnly, AtLeader, (*Server).register},
	{"POST", "/v1/imagenames", NodeOnly, AtLeader, (*Server).nameImages},
	{"GET", "/v1/imagesneeded", NodeOnly, AtLeader, (*Server).imagesNeeded},
	{"DELETE", "/v1/imagenames", NodeOnly, AtLeader, (*Server).unnameImage},
	{"POST", "/v1/lease", NodeOnly, AtLeader, (*Server).lease},
	{"POST", "/v1/report", NodeOnly, AtLeader, (*Server).report},
	{"GET", "/v1/feed", NodeOnly, Here, (*Server).feed},
	{"POST", "/v1/sample", NodeOnly, Here, (*Server).sample},
	{"GET", "/v1/probe", NodeOnly, Here, (*Server).probe},
	{"GET", "/v1/routed", NodeOnly, Here, (*Server).routed},
}
