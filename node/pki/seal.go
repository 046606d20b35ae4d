package pki

import (
	"crypto/rand"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	// SealKeySize is the length of a sealing key in bytes.
	SealKeySize = chacha20poly1305.KeySize
	// sealVersion is the first byte of everything sealed: XChaCha20-Poly1305, a random nonce of 24 bytes, the ciphertext.
	// Random nonces of that length do not repeat in practice, whoever seals.
	sealVersion = 1
)

// ErrSealed tells that something does not open: wrong key, wrong context, or damaged.
var ErrSealed = errors.New("sealed data does not open with this key")

// NewSealKey makes a random key.
func NewSealKey() ([]byte, error) {
	k := make([]byte, SealKeySize)
	if _, err := rand.Read(k); err != nil {
		return nil, fmt.Errorf("make a sealing key: %w", err)
	}
	return k, nil
}

// Seal encrypts and authenticates plaintext. aad says what it is ("ca key of cluster X") and must be the same for Open,
// so that one sealed thing cannot stand in for another.
func Seal(key, plaintext, aad []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	out := make([]byte, 1+aead.NonceSize(), 1+aead.NonceSize()+len(plaintext)+aead.Overhead())
	out[0] = sealVersion
	if _, err := rand.Read(out[1:]); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return aead.Seal(out, out[1:], plaintext, aad), nil
}

// Open reverses Seal. An error wraps ErrSealed unless the key's length is wrong.
func Open(key, sealed, aad []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("open sealed data: %w", err)
	}
	switch {
	case len(sealed) < 1+aead.NonceSize()+aead.Overhead():
		return nil, fmt.Errorf("%w: only %d bytes", ErrSealed, len(sealed))
	case sealed[0] != sealVersion:
		return nil, fmt.Errorf("%w: format %d is not known to this version", ErrSealed, sealed[0])
	}
	nonce, box := sealed[1:1+aead.NonceSize()], sealed[1+aead.NonceSize():]
	plain, err := aead.Open(nil, nonce, box, aad)
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}
