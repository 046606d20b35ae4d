//go:build suite

// Package suite pins the validation programs of opencontainers/runtime-tools and what they were written against. It is a
// module of its own because they need versions that shoal must not have.
package suite

import (
	_ "github.com/opencontainers/runtime-tools/cmd/runtimetest"
	_ "github.com/opencontainers/runtime-tools/validation/create"
	_ "github.com/opencontainers/runtime-tools/validation/util"
)
