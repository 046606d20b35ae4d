// Command shoal-stage is what is started for each container, and no more: small, so that it starts fast. The binary shoal
// has it inside, and can do all that it does.
package main

import (
	"os"

	"shoal/runtime/container/stage"
)

func main() {
	stage.Main()
	os.Exit(2)
}
