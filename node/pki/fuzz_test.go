package pki

import (
	"testing"

	"shoal/e2e/frugal"
)

// FuzzPEM: no request, certificate, key or fingerprint of somebody else makes a reader panic.
func FuzzPEM(f *testing.F) {
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	csr, err := key.CSR("node1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\n\n-----END EC PRIVATE KEY-----\n"))
	f.Add([]byte("00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Watch(t)()
		_, _ = parseCSR(b)
		_, _, _ = parseCA(b)
		_, _ = ParseKey(b)
		if cert, err := parseCert(b); err == nil {
			for _, u := range cert.URIs {
				_, _, _ = parseURI(u)
			}
			if _, err := PinOf(b); err != nil {
				t.Errorf("a certificate without a pin: %v", err)
			}
		}
		if p, err := ParsePin(string(b)); err == nil {
			if again, err := ParsePin(p.String()); err != nil || again != p {
				t.Errorf("%v reads as %v, %v", p, again, err)
			}
		}
	})
}
