package main

import "os"

var binaryGroup = group{
	name: "binary", how: "size of the file that make build makes, stripped and static.",
	run: func(b *bench) error {
		st, err := os.Stat(b.binary)
		if err != nil {
			return err
		}
		size := &series{name: "binary size", unit: MiB, goal: &Goal{Bound: 60}}
		size.add(float64(st.Size()) / (1 << 20))
		return b.keep("binary", size)
	},
}
