package reconciler

import (
	"strconv"
	"strings"

	"shoal/consensus/job"
)

// genericEnv tells a container which things of its node are its own: SHOAL_RESOURCE_GPU=uuid1,uuid2, or a number where they
// have no ids; and the same under the name that Docker gives it.
func genericEnv(gs []job.Generic) (env []string) {
	for _, g := range gs {
		value := strings.Join(g.IDs, ",")
		if value == "" {
			value = strconv.Itoa(g.Count)
		}
		name := "_RESOURCE_" + strings.Map(envRune, g.Kind) + "=" + value
		env = append(env, "SHOAL"+name, "DOCKER"+name)
	}
	return env
}

func envRune(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z':
		return r - 'a' + 'A'
	case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return r
	}
	return '_'
}
