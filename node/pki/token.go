package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode"
)

// Errors that ParseToken wraps.
var (
	// ErrNotToken: the text is something else.
	ErrNotToken = errors.New("not a join token")
	// ErrTokenTypo: the text was a token once, but was cut or mistyped.
	ErrTokenTypo = errors.New("join token is damaged")
)

const (
	tokenPrefix      = "shoal1"
	tokenIDBytes     = 5  // 8 characters: only to name it
	tokenSecretBytes = 20 // 160 bits: nobody guesses it, so a plain hash may be stored
	tokenCheckBytes  = 5
	tokenMaxLen      = 256
)

var tokenEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Token lets a new node in. It is one word without capitals:
//
//	shoal1-ID-FINGERPRINT-SECRET-CHECKSUM
type Token struct {
	// ID names the token to people and in the log; it is not secret.
	ID string
	// CAFingerprint is the authority's fingerprint as CA.Fingerprint returns it, by which the joiner knows the cluster.
	CAFingerprint string
	// Secret proves to the cluster that the joiner was invited.
	Secret []byte
}

// NewToken makes a random token for the cluster with this fingerprint.
func NewToken(caFingerprint string) (Token, error) {
	if _, err := ParsePin(caFingerprint); err != nil {
		return Token{}, fmt.Errorf("make a join token: %w", err)
	}
	b := make([]byte, tokenIDBytes+tokenSecretBytes)
	if _, err := rand.Read(b); err != nil {
		return Token{}, fmt.Errorf("make a join token: %w", err)
	}
	return Token{ID: tokenEncoding.EncodeToString(b[:tokenIDBytes]), CAFingerprint: caFingerprint, Secret: b[tokenIDBytes:]}, nil
}

// String returns the whole token, secret included. t must be one that NewToken or ParseToken returned.
func (t Token) String() string {
	pin, err := ParsePin(t.CAFingerprint)
	if err != nil {
		return "invalid join token " + t.ID
	}
	body := strings.Join([]string{tokenPrefix, t.ID, tokenEncoding.EncodeToString(pin[:]), tokenEncoding.EncodeToString(t.Secret)}, "-")
	return body + "-" + tokenChecksum(body)
}

// LogValue keeps the secret out of logs.
func (t Token) LogValue() slog.Value { return slog.StringValue("join token " + t.ID) }

// GoString keeps the secret out of %#v.
func (t Token) GoString() string { return fmt.Sprintf("pki.Token{ID: %q}", t.ID) }

func tokenChecksum(body string) string {
	sum := sha256.Sum256([]byte(body))
	return tokenEncoding.EncodeToString(sum[:tokenCheckBytes])
}

// ParseToken reads a token as people paste it: surrounding space and capitals do not matter. The error wraps
// ErrNotToken or ErrTokenTypo and never repeats the secret.
func ParseToken(s string) (Token, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	version, _, found := strings.Cut(s, "-")
	switch {
	case len(s) > tokenMaxLen:
		return Token{}, fmt.Errorf("%w: it is too long (%d characters)", ErrNotToken, len(s))
	case found && version != tokenPrefix && strings.HasPrefix(version, "shoal") && isDigits(version[len("shoal"):]):
		return Token{}, fmt.Errorf("%w: it is of another version of shoal (%s, this one reads %s)", ErrNotToken, clip(version), tokenPrefix)
	case !found || version != tokenPrefix:
		return Token{}, fmt.Errorf("%w: a token begins with %q: make one with: shoal token create", ErrNotToken, tokenPrefix+"-")
	case strings.ContainsFunc(s, unicode.IsSpace):
		return Token{}, fmt.Errorf("%w: there is space inside: copy it as one line", ErrTokenTypo)
	}
	parts := strings.Split(s, "-")
	if len(parts) != 5 {
		return Token{}, fmt.Errorf("%w: it has %d parts of 5: copy the whole of it", ErrTokenTypo, len(parts))
	}
	body := s[:strings.LastIndexByte(s, '-')]
	if parts[4] != tokenChecksum(body) {
		return Token{}, fmt.Errorf("%w: its checksum does not match: a character is missing or mistyped, copy it again", ErrTokenTypo)
	}
	id, err1 := tokenPart(parts[1], tokenIDBytes)
	pin, err2 := tokenPart(parts[2], sha256.Size)
	secret, err3 := tokenPart(parts[3], tokenSecretBytes)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrTokenTypo, err)
	}
	return Token{ID: tokenEncoding.EncodeToString(id), CAFingerprint: Pin(pin).String(), Secret: secret}, nil
}

// tokenPart decodes one part, in its only spelling.
func tokenPart(s string, size int) ([]byte, error) {
	b, err := tokenEncoding.DecodeString(s)
	if err != nil || len(b) != size || tokenEncoding.EncodeToString(b) != s {
		return nil, fmt.Errorf("a part of %d characters does not decode to %d bytes", len(s), size)
	}
	return b, nil
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// Verifier returns what the cluster stores instead of the secret.
func (t Token) Verifier() []byte { return tokenVerifier(t.ID, t.Secret) }

// CheckSecret tells whether secret is that of the token with this id and verifier. Its time does not depend on where
// they differ.
func CheckSecret(verifier []byte, id string, secret []byte) bool {
	return subtle.ConstantTimeCompare(verifier, tokenVerifier(id, secret)) == 1
}

func tokenVerifier(id string, secret []byte) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "shoal join token\x00%s\x00", id)
	h.Write(secret)
	return h.Sum(nil)
}
