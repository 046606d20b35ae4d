package pki

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"shoal/e2e/frugal"
)

const someFingerprint = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func TestTokenSurvivesCopyAndPaste(t *testing.T) {
	tok := must[Token](t)(NewToken(someFingerprint))
	text := tok.String()
	if strings.ContainsAny(text, " \t\n\"'\\/+=$") || strings.ToLower(text) != text {
		t.Errorf("%q is not one safe word", text)
	}
	for _, pasted := range []string{text, "  " + text + "\r\n", strings.ToUpper(text)} {
		got, err := ParseToken(pasted)
		if err != nil || got.ID != tok.ID || got.CAFingerprint != someFingerprint || !bytes.Equal(got.Secret, tok.Secret) {
			t.Errorf("%q: %+v, %v", pasted, got, err)
		}
	}
}

func TestEveryTypoIsCaught(t *testing.T) {
	tok := must[Token](t)(NewToken(someFingerprint))
	text := tok.String()
	secret := tokenEncoding.EncodeToString(tok.Secret)
	check := func(what, damaged string) {
		t.Helper()
		if damaged == text {
			return
		}
		_, err := ParseToken(damaged)
		if !errors.Is(err, ErrTokenTypo) && !errors.Is(err, ErrNotToken) {
			t.Errorf("%s: %q: %v", what, damaged, err)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error tells the secret", what)
		}
	}
	for i := range text {
		check("one wrong", text[:i]+"q"+text[i+1:])
		check("one missing", text[:i]+text[i+1:])
		check("one too many", text[:i]+"a"+text[i:])
		check("cut", text[:i])
		check("space inside", text[:i]+" x"+text[i:])
		if i > 0 {
			check("two swapped", text[:i-1]+text[i:i+1]+text[i-1:i]+text[i+1:])
		}
	}
}

func TestTokenErrorsSayWhatItIs(t *testing.T) {
	text := must[Token](t)(NewToken(someFingerprint)).String()
	for _, test := range []struct {
		text string
		kind error
		want string
	}{
		{"", ErrNotToken, "shoal token create"},
		{"10.0.0.1:6174", ErrNotToken, "shoal token create"},
		{"SWMTKN-1-abc", ErrNotToken, "shoal token create"},
		{"shoal2-" + text[7:], ErrNotToken, "another version"},
		{strings.Repeat("shoal1-", 100), ErrNotToken, "too long"},
		{text[:60], ErrTokenTypo, "copy the whole"},
		{text[:40] + "\n" + text[40:], ErrTokenTypo, "space inside"},
		{text[:len(text)-1], ErrTokenTypo, "checksum"},
	} {
		_, err := ParseToken(test.text)
		if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.30q: %v, want %q", test.text, err, test.want)
		}
	}
}

func TestSecretIsCheckedAgainstItsVerifier(t *testing.T) {
	a, b := must[Token](t)(NewToken(someFingerprint)), must[Token](t)(NewToken(someFingerprint))
	if !CheckSecret(a.Verifier(), a.ID, a.Secret) {
		t.Error("the right secret was refused")
	}
	if CheckSecret(a.Verifier(), a.ID, b.Secret) || CheckSecret(a.Verifier(), b.ID, a.Secret) || CheckSecret(nil, a.ID, a.Secret) {
		t.Error("a wrong one was accepted")
	}
	if bytes.Contains(a.Verifier(), a.Secret) {
		t.Error("the verifier holds the secret")
	}
}

func TestLogsDoNotTellTheSecret(t *testing.T) {
	tok := must[Token](t)(NewToken(someFingerprint))
	if got := tok.LogValue().String() + fmt.Sprintf("%#v", tok); strings.Contains(got, tokenEncoding.EncodeToString(tok.Secret)) || !strings.Contains(got, tok.ID) {
		t.Errorf("logged as %s", got)
	}
}

func FuzzParseToken(f *testing.F) {
	good := Token{ID: "abcdefgh", CAFingerprint: someFingerprint, Secret: bytes.Repeat([]byte{1}, tokenSecretBytes)}.String()
	for _, seed := range []string{good, strings.ToUpper(good), " " + good, good[:50], "shoal1-----", "shoal2-a-b-c-d", "", "-"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		defer frugal.Watch(t)()
		tok, err := ParseToken(text)
		if err != nil {
			if !errors.Is(err, ErrNotToken) && !errors.Is(err, ErrTokenTypo) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		if got := tok.String(); got != strings.ToLower(strings.TrimSpace(text)) {
			t.Fatalf("%q was accepted and is written %q", text, got)
		}
	})
}
