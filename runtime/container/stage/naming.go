package stage

import "shoal/runtime"

// domain is the container's NIS domain name, as docker sets it from --domainname.
func domain(s *runtime.Spec) string {
	if s.Naming == nil {
		return ""
	}
	return s.Naming.Domain
}
