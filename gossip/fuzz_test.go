package gossip_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"shoal/e2e/frugal"
	"shoal/gossip"
	"shoal/gossip/gossiptest"
)

// The formats are memberlist's (security.go, label.go, net.go): what a member with the key can send.
const (
	fuzzLabel = "cluster1"
	// freshPool is after how many inputs the pool is made anew: made-up members stay in it.
	freshPool = 2000
)

// sealed encrypts as the given version says; the padding of version 0 is the sender's business.
func sealed(version byte, plain, data []byte) []byte {
	block, err := aes.NewCipher(clusterKey)
	if err != nil {
		panic(err) // the key is ours
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	nonce := make([]byte, gcm.NonceSize()) // the same each time: nothing here is secret
	return gcm.Seal(append([]byte{version}, nonce...), nonce, plain, data)
}

func opened(b, data []byte) []byte {
	block, _ := aes.NewCipher(clusterKey)
	gcm, _ := cipher.NewGCM(block)
	if len(b) < 1+gcm.NonceSize() {
		return nil
	}
	plain, _ := gcm.Open(nil, b[1:1+gcm.NonceSize()], b[1+gcm.NonceSize():], data)
	return plain
}

func labelled(b []byte) []byte {
	return append(append([]byte{244, byte(len(fuzzLabel))}, fuzzLabel...), b...)
}

func packet(version byte, plain []byte) []byte {
	return labelled(sealed(version, plain, []byte(fuzzLabel)))
}

func stream(version byte, plain []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{10}, uint32(1+12+len(plain)+16))
	return labelled(append(head, sealed(version, plain, append(bytes.Clone(head), fuzzLabel...))...))
}

// ping is a message that is answered, and how the answer begins.
func ping(seq uint32) (question, answer []byte) {
	number := binary.BigEndian.AppendUint32([]byte{0xce}, seq)
	question = append([]byte{0, 0x82, 0xa5}, "SeqNo"...)
	question = append(question, number...)
	question = append(question, 0xa4)
	question = append(question, "Node\xa3id1"...)
	return question, number
}

// target is a pool in a network of its own, and somebody else in it.
type target struct {
	net  *gossiptest.Network
	pool *gossip.Pool
	from net.PacketConn
	stop func()
	used int
	seq  uint32
}

var poolAddr = netip.AddrPortFrom(hostOf(1), 6174)

func newTarget(t testing.TB) *target {
	g := &target{net: gossiptest.NewNetwork(1), seq: 1 << 30}
	packets, err := g.net.ListenPacket(poolAddr)
	if err != nil {
		t.Fatal(err)
	}
	streams, err := g.net.Listen(poolAddr)
	if err != nil {
		t.Fatal(err)
	}
	if g.from, err = g.net.ListenPacket(netip.AddrPortFrom(hostOf(99), 6174)); err != nil {
		t.Fatal(err)
	}
	g.pool, err = gossip.New(gossip.Config{
		ID: "id1", Name: "node1", Advertise: poolAddr, Packets: packets, Streams: streams, Dial: g.net.Dialer(poolAddr.Addr()),
		Keys: [][]byte{clusterKey}, Label: fuzzLabel,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.pool.Run(ctx) }()
	g.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		g.from.Close()
	}
	g.answers(t)
	return g
}

// answers waits until the pool answers a ping: it has taken all that was sent before.
func (g *target) answers(t testing.TB) {
	buf := make([]byte, 64<<10)
	end := time.Now().Add(time.Minute)
	for time.Now().Before(end) {
		g.seq++
		question, answer := ping(g.seq)
		if _, err := g.from.WriteTo(packet(1, question), net.UDPAddrFromAddrPort(poolAddr)); err != nil {
			t.Fatal(err)
		}
		_ = g.from.SetReadDeadline(time.Now().Add(time.Second))
		for {
			n, _, err := g.from.ReadFrom(buf)
			if err != nil {
				break // lost: the pool drops packets while it is busy, or did not run yet
			}
			if prefix := labelled(nil); bytes.HasPrefix(buf[:n], prefix) && bytes.Contains(opened(buf[len(prefix):n], []byte(fuzzLabel)), answer) {
				return
			}
		}
	}
	t.Fatal("the pool does not answer any more")
}

// fuzzPool lets each input meet a running pool.
func fuzzPool(f *testing.F, send func(t *testing.T, g *target, version byte, plain []byte)) {
	question, _ := ping(7)
	node := "\xa4Node\xa3id9"
	alive := "\x04\x86\xabIncarnation\x01" + node + "\xa4Addr\xa4\x0a\x00\x00\x09\xa4Port\xcd\x18\x1e\xa4Meta\xa1x\xa3Vsn\xa6\x01\x05\x05\x00\x00\x00"
	for _, seed := range []string{
		string(question), alive, "\x03\x83\xabIncarnation\x01" + node + "\xa4From\xa3id9", "\x05\x83\xabIncarnation\x01" + node + "\xa4From\xa3id9",
		"\x07\x01\x00\x10" + string(question), "\x07\xff", "\x08user", "\x09\x82\xa4Algo\x00\xa3Buf\xa1\x00", "\x0c\x00\x00\x00\x00" + string(question), "\x0b\x81\xa5SeqNo\x01",
		"\x06\x83\xa5Nodes\x01\xacUserStateLen\x00\xa4Join\xc2\x87\xa4Name\xa3id9\xa4Addr\xa4\x0a\x00\x00\x09\xa4Port\xcd\x18\x1e\xa4Meta\xa1x\xabIncarnation\x01\xa5State\x00\xa3Vsn\xa6\x01\x05\x05\x00\x00\x00",
		"\x06\x83\xa5Nodes\xce\x7f\xff\xff\xff\xacUserStateLen\x00\xa4Join\xc2", "\x08\x81\xaaUserMsgLen\xce\x7f\xff\xff\xff", "",
	} {
		f.Add([]byte(seed), byte(1))
		f.Add([]byte(seed), byte(0))
	}
	g := newTarget(f)
	defer func() { g.stop() }()
	f.Fuzz(func(t *testing.T, plain []byte, version byte) {
		if g.used++; g.used%freshPool == 0 {
			g.stop()
			g = newTarget(t)
		}
		defer frugal.Watch(t)()
		send(t, g, version, plain)
		g.answers(t)
	})
}

// FuzzPacket: no packet, not of one who has the key either, ends a pool or makes it deaf.
func FuzzPacket(f *testing.F) {
	fuzzPool(f, func(t *testing.T, g *target, version byte, plain []byte) {
		if _, err := g.from.WriteTo(packet(version, plain), net.UDPAddrFromAddrPort(poolAddr)); err != nil {
			t.Skip(err) // larger than a packet
		}
	})
}

// FuzzStream: no stream either, an exchange of all that is known among them.
func FuzzStream(f *testing.F) {
	fuzzPool(f, func(t *testing.T, g *target, version byte, plain []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		conn, err := g.net.Dial(ctx, hostOf(99), poolAddr.String())
		if err != nil {
			t.Fatal(fmt.Errorf("dial: %w", err))
		}
		defer conn.Close()
		if _, err := conn.Write(stream(version, plain)); err == nil {
			if half, ok := conn.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			_, _ = io.Copy(io.Discard, conn) // until it was taken
		}
	})
}
