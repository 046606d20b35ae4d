// Command self is a program that can be nothing but its own launcher: tests build it static, as containers need it for
// their init, where the test binary is not.
package main

import "shoal/runtime/container"

func main() { container.ReexecMain() }
