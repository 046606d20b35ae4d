package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
)

// keyring serializes changes to memberlist's ring.
type keyring struct {
	mu   sync.Mutex
	ring *memberlist.Keyring
}

func newKeyring(keys [][]byte) (*keyring, error) {
	own := make([][]byte, len(keys))
	for i, k := range keys {
		own[i] = bytes.Clone(k)
	}
	ring, err := memberlist.NewKeyring(own, own[0])
	if err != nil {
		return nil, fmt.Errorf("gossip keyring: %w", err)
	}
	return &keyring{ring: ring}, nil
}

// checkKey refuses keys that are not for AES-256.
func checkKey(k []byte) error {
	if len(k) != KeySize {
		return fmt.Errorf("a gossip key has %d bytes, got %d", KeySize, len(k))
	}
	return nil
}

// AddKey lets this node read what is encrypted with key. To rotate, add the new key everywhere, then UseKey it
// everywhere, then RemoveKey the old one everywhere. Adding a key twice changes nothing.
func (p *Pool) AddKey(key []byte) error {
	if err := checkKey(key); err != nil {
		return fmt.Errorf("add gossip key: %w", err)
	}
	p.keys.mu.Lock()
	defer p.keys.mu.Unlock()
	return p.keys.ring.AddKey(bytes.Clone(key))
}

// UseKey makes key, which must have been added, the one that this node encrypts with.
func (p *Pool) UseKey(key []byte) error {
	p.keys.mu.Lock()
	defer p.keys.mu.Unlock()
	if !p.keys.hasLocked(key) {
		return fmt.Errorf("use gossip key: not on the ring: add it first, on every node")
	}
	return p.keys.ring.UseKey(key)
}

// RemoveKey forgets key. The one in use cannot be removed; removing one that is not there changes nothing.
func (p *Pool) RemoveKey(key []byte) error {
	p.keys.mu.Lock()
	defer p.keys.mu.Unlock()
	if !p.keys.hasLocked(key) {
		return nil
	}
	if bytes.Equal(key, p.keys.ring.GetPrimaryKey()) {
		return errors.New("remove gossip key: it is the one in use: use another first")
	}
	if err := p.keys.moveLastLocked(key); err != nil {
		return fmt.Errorf("remove gossip key: %w", err)
	}
	return p.keys.ring.RemoveKey(key)
}

// Keys returns copies of the keys, the one in use first.
func (p *Pool) Keys() [][]byte {
	p.keys.mu.Lock()
	defer p.keys.mu.Unlock()
	var out [][]byte
	for _, k := range p.keys.ring.GetKeys() {
		out = append(out, bytes.Clone(k))
	}
	return out
}

func (k *keyring) hasLocked(key []byte) bool {
	return slices.ContainsFunc(k.ring.GetKeys(), func(have []byte) bool { return bytes.Equal(have, key) })
}

// moveLastLocked puts key at the end of the ring. memberlist v0.7.0 removes a key by shifting those behind it inside an
// array that decrypting goroutines may be reading; removing the last one shifts nothing. With the usual two keys this
// does nothing; with more, the other keys encrypt for some microseconds in turn.
func (k *keyring) moveLastLocked(key []byte) error {
	keys := k.ring.GetKeys()
	if bytes.Equal(keys[len(keys)-1], key) {
		return nil
	}
	// Each use moves one key to the front; after all others had their turn, the primary last, only key is behind.
	for _, other := range slices.Backward(keys) {
		if bytes.Equal(other, key) {
			continue
		}
		if err := k.ring.UseKey(other); err != nil {
			return err
		}
	}
	return nil
}
