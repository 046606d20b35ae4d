package gossip

import (
	"encoding/binary"
	"errors"
	"net"
)

// Two messages end a process with memberlist v0.7.0 by a panic; FuzzPacket and FuzzStream showed them. It takes the padding
// off whatever came encrypted by version 0 without a look at it (security.go, pkcs7decode), and it looks at the first byte of
// a stream that has none (net.go, readStream). Only who has the key can send that, but one broken member must not end all
// agents. Version 0 belongs to protocol 1, and nobody of ours sends either: they are refused before memberlist sees them.
const (
	messageLabel    = 244         // then a byte for the label's length, and the label
	messageSealed   = 10          // in streams: then four bytes for the length, and what is encrypted
	encryptedPadded = 0           // the version, first byte of what is encrypted
	encryptedEmpty  = 1 + 12 + 16 // version, nonce and tag of AES-GCM around nothing
)

var errSenseless = errors.New("gossip: refused a stream that is empty, or encrypted by version 0: no node of ours sends that")

// afterLabel is what follows the label; false if the label's end is not in b.
func afterLabel(b []byte) ([]byte, bool) {
	if len(b) == 0 || b[0] != messageLabel {
		return b, len(b) > 0
	}
	if len(b) < 2 || len(b) < 2+int(b[1]) {
		return nil, false
	}
	return b[2+int(b[1]):], true
}

// packetPadded tells whether a packet is of version 0.
func packetPadded(b []byte) bool {
	rest, ok := afterLabel(b)
	return ok && len(rest) > 0 && rest[0] == encryptedPadded
}

// guardedConn reads no stream that memberlist could not bear.
type guardedConn struct {
	net.Conn
	head []byte // what was read until the version was seen; touched by the reader alone
	seen bool
	err  error
}

// Read implements net.Conn.
func (c *guardedConn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(p)
	if !c.seen && n > 0 {
		c.head = append(c.head, p[:n]...)
		if c.look(); c.err != nil {
			return 0, c.err
		}
	}
	return n, err
}

// look looks for the version in the head.
func (c *guardedConn) look() {
	const at = 5 // where the version is
	rest, ok := afterLabel(c.head)
	switch {
	case !ok || len(rest) == 0:
		return
	case rest[0] != messageSealed:
	case len(rest) <= at:
		return
	case rest[at] == encryptedPadded, binary.BigEndian.Uint32(rest[1:]) <= encryptedEmpty:
		c.err = errSenseless
	}
	c.head, c.seen = nil, true
}
