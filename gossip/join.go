package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"time"
)

const (
	// joinParallel is how many addresses are tried at a time.
	joinParallel = 4
	// rejoinBatch is how many absent peers are tried in one round, chosen at random: one success brings in its whole
	// side of a partition.
	rejoinBatch = 8
)

// Join exchanges members with the nodes at addrs (host:port; names are resolved) and returns how many it reached. The
// error tells of the last one that failed and is nil if any was reached, or if addrs is empty. It waits for Run to have
// started. This node's own address is skipped.
func (p *Pool) Join(ctx context.Context, addrs []string) (int, error) {
	select {
	case <-p.ready:
	case <-p.done:
		return 0, fmt.Errorf("join: %w", ErrStopped)
	case <-ctx.Done():
		return 0, fmt.Errorf("join: waiting for gossip to start: %w", context.Cause(ctx))
	}
	targets, err := resolve(ctx, addrs)
	return p.joinAll(ctx, targets, err)
}

// joinAll tries all targets. lastErr is the error so far.
func (p *Pool) joinAll(ctx context.Context, targets []netip.AddrPort, lastErr error) (int, error) {
	type result struct {
		addr netip.AddrPort
		err  error
	}
	results := make(chan result, len(targets))
	gate := make(chan struct{}, joinParallel)
	tried := 0
	for _, t := range targets {
		if t == p.cfg.Advertise {
			continue
		}
		tried++
		if !p.spawn(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			if ctx.Err() != nil {
				results <- result{t, ctx.Err()}
				return
			}
			results <- result{t, p.joinOne(t)}
		}) {
			return 0, fmt.Errorf("join: %w", ErrStopped)
		}
	}
	reached := 0
	for range tried {
		select {
		case r := <-results:
			if r.err != nil {
				lastErr = fmt.Errorf("join gossip at %v: %w", r.addr, r.err)
				continue
			}
			reached++
		case <-ctx.Done():
			// Those under way end by themselves within the stream timeout; Run waits for them.
			if reached == 0 {
				return 0, fmt.Errorf("join gossip: %w", context.Cause(ctx))
			}
			return reached, nil
		}
	}
	if reached > 0 {
		return reached, nil
	}
	return 0, lastErr
}

// spawn runs f in a goroutine that Run waits for, unless the pool is stopping.
func (p *Pool) spawn(f func()) bool {
	p.lifeMu.RLock()
	defer p.lifeMu.RUnlock()
	if p.list == nil || p.trans.ctx.Err() != nil {
		return false
	}
	p.wg.Go(f)
	return true
}

// joinOne exchanges members with one node. It ends within the stream timeout for dialing and the one for the exchange.
func (p *Pool) joinOne(addr netip.AddrPort) error {
	_, err := p.list.Join([]string{addr.String()})
	return err
}

// Rejoin makes the pool look for lost peers for as long as it runs: at once, and then at each RejoinInterval, it tries to
// join with some of the addresses that known returns (host:port) and of the dead members, leaving out those that are
// here. Without it two halves of a healed partition never find each other again. known must not block; it may be nil. A
// second call replaces it.
func (p *Pool) Rejoin(known func() []string) {
	if known == nil {
		known = func() []string { return nil }
	}
	p.mu.Lock()
	p.known = known
	p.mu.Unlock()
}

// firstRejoin is the mean time to the second attempt; from there it doubles up to RejoinInterval.
const firstRejoin = 200 * time.Millisecond

// rejoinLoop tries at once, and often in the beginning: who was just started knows nobody, and when all machines come
// back together the first attempts find nobody.
func (p *Pool) rejoinLoop(ctx context.Context) {
	for mean := firstRejoin; ; mean *= 2 {
		p.rejoinOnce(ctx)
		if faultNoRejoin && mean > 10*firstRejoin {
			return
		}
		mean = min(mean, p.cfg.Timing.RejoinInterval)
		timer := time.NewTimer(mean/2 + rand.N(mean))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// rejoinOnce tries a few absent peers.
func (p *Pool) rejoinOnce(ctx context.Context) {
	absent := p.absent(ctx)
	if len(absent) == 0 {
		return
	}
	rand.Shuffle(len(absent), func(i, j int) { absent[i], absent[j] = absent[j], absent[i] })
	absent = absent[:min(len(absent), rejoinBatch)]
	switch n, err := p.joinAll(ctx, absent, nil); {
	case n > 0:
		p.log.Info("gossip: reached peers that were not alive members", "tried", len(absent), "reached", n)
	case err != nil:
		p.log.Debug("gossip: no absent peer answers", "tried", len(absent), "err", err)
	}
}

// absent returns the addresses of peers that ought to be here and are not.
func (p *Pool) absent(ctx context.Context) []netip.AddrPort {
	p.mu.Lock()
	known, left := p.known, p.left
	p.mu.Unlock()
	if known == nil || left {
		return nil
	}
	peers, err := resolve(ctx, known())
	if err != nil {
		p.log.Debug("gossip: address of a known peer", "err", err)
	}
	here := map[netip.AddrPort]bool{p.cfg.Advertise: true}
	for _, m := range p.Members() {
		switch {
		case m.State.here():
			here[m.Addr] = true
		case m.State == Dead:
			peers = append(peers, m.Addr)
		}
	}
	var out []netip.AddrPort
	for _, a := range peers {
		if !here[a] {
			here[a] = true // once is enough
			out = append(out, a)
		}
	}
	return out
}

// resolve turns host:port into addresses. What cannot be resolved is left out and told by the error.
func resolve(ctx context.Context, addrs []string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	var errs []error
	for _, a := range addrs {
		found, err := resolveOne(ctx, a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, found...)
	}
	return out, errors.Join(errs...)
}

func resolveOne(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())}, nil
	}
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("peer address %q: %w", addr, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("peer address %q: port is not a number up to 65535", addr)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("peer address %q: %w", addr, err)
	}
	out := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		out[i] = netip.AddrPortFrom(ip.Unmap(), uint16(port))
	}
	return out, nil
}
