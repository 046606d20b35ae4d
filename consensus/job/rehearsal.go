package job

// Rehearsal is what submitting a job would come to, if every task that is placed became ready at once.
type Rehearsal struct {
	// Tasks are those of the job in the end, by service and slot (or node).
	Tasks []RehearsedTask `json:"tasks"`
	// Blocked says why slots of the job would stay empty, by service.
	Blocked []Blocked `json:"blocked,omitempty"`
	// Taken are tasks of other jobs that would have to make room.
	Taken []TakenTask `json:"taken,omitempty"`
	// Cut: it took too long to be followed to the end; what is told is how far it came.
	Cut bool `json:"cut,omitempty"`
}

// RehearsedTask is one task as it would be in the end.
type RehearsedTask struct {
	Service string `json:"service"`
	Name    string `json:"name"`
	Node    string `json:"node"`           // its name
	Was     string `json:"was,omitempty"`  // the name of the node where the slot's task is now; "" if there is none
	Kept    bool   `json:"kept,omitempty"` // it is the task that runs now
}

// TakenTask is a task that would be stopped for one of the job.
type TakenTask struct {
	Job   string `json:"job"`
	Name  string `json:"name"`
	Node  string `json:"node"`         // where it runs
	To    string `json:"to,omitempty"` // where it would be placed again; "" if it fits nowhere
	Cause string `json:"cause"`        // who would take its room
}
