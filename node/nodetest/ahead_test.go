package nodetest

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// While all clocks are months ahead, all certificates are renewed by them. When the clocks are put right they have not begun,
// and their nodes are let in all the same, by their keys.
func TestCertificatesSignedByAClockAheadShutNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster(t, 3)
		c.submit(web(3, "web:1"))
		c.awaitRunning(10*time.Second, 3)
		for _, m := range c.Machines {
			m.SetClock(70 * 24 * time.Hour)
		}
		time.Sleep(3 * time.Minute)
		for _, m := range c.Machines {
			if !m.certificate().NotBefore.After(time.Now()) {
				t.Fatalf("%s did not renew its certificate", m.Name)
			}
			m.SetClock(0)
			m.PowerOff()
		}
		time.Sleep(time.Second)
		for _, m := range c.Machines {
			m.PowerOn()
		}
		c.submit(web(5, "web:1"))
		c.awaitRunning(time.Minute, 5)
		time.Sleep(2 * time.Minute)
		for _, m := range c.Machines {
			if from := m.certificate().NotBefore; from.After(time.Now()) {
				t.Errorf("%s still has a certificate from %v on", m.Name, from)
			}
		}
	})
}

// certificate is the machine's, from its disk.
func (m *Machine) certificate() *x509.Certificate {
	m.c.t.Helper()
	rest, err := os.ReadFile(filepath.Join(m.dir(), "identity", "identity.pem"))
	for err == nil {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if cert, parseErr := x509.ParseCertificate(block.Bytes); parseErr == nil {
			return cert // the authority's comes after it
		}
	}
	m.c.t.Fatalf("no certificate of %s: %v", m.Name, err)
	return nil
}
