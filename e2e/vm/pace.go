package vm

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
)

// Work is a fixed piece of what an agent does all day: signatures of handshakes, checksums, JSON. How long it takes tells
// how fast a machine is.
func Work() {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err) // the kernel has no random numbers
	}
	block := make([]byte, 64<<10)
	for range 40 {
		sum := sha256.Sum256(block)
		sig := ed25519.Sign(private, sum[:])
		if !ed25519.Verify(public, sum[:], sig) {
			panic("ed25519 does not verify what it signed: the processor computes wrongly")
		}
		b, _ := json.Marshal(map[string][]byte{"sum": sum[:], "sig": sig}) // never fails
		var back map[string][]byte
		if json.Unmarshal(b, &back) != nil {
			panic("JSON does not read what it wrote")
		}
		copy(block, b)
	}
}
