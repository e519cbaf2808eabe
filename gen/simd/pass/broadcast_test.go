package pass

import (
	"strings"
	"testing"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
)

// Instructions repeat constants of a pool, and no other operand; one that cannot is an
// error, and not another number.
func TestBroadcast(t *testing.T) {
	pool := operand.NewDataAddr(operand.NewStaticSymbol("constants"), 4)
	text := func(body func(c *build.Context)) (string, error) {
		c := build.NewContext()
		c.Function("f")
		c.SignatureExpr("func()")
		body(c)
		f, err := c.Result()
		if err != nil {
			t.Fatal(err)
		}
		err = Broadcast(f, pool.Symbol)
		var ops []string
		for _, i := range f.Functions()[0].Instructions() {
			ops = append(ops, i.OpcodeWithSuffixes())
		}
		return strings.Join(ops, " "), err
	}
	other := operand.NewDataAddr(operand.NewStaticSymbol("others"), 0)
	got, err := text(func(c *build.Context) {
		v, k := c.ZMM(), c.K()
		c.VMOVUPS(pool, v)
		c.VADDPS(pool, v, v)
		c.VFMADD213PS(pool, v, v)
		c.VCMPPS(operand.U8(5), pool, v, k)
		c.VADDPS(other, v, v)
		c.VADDPS(v, v, v)
	})
	if want := "VBROADCASTSS VADDPS.BCST VFMADD213PS.BCST VCMPPS.BCST VADDPS VADDPS"; got != want || err != nil {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	_, err = text(func(c *build.Context) {
		v := c.ZMM()
		c.VPSHUFB(pool, v, v)
	})
	if err == nil || !strings.Contains(err.Error(), "VPSHUFB cannot repeat") {
		t.Errorf("VPSHUFB of bytes: %v, want an error that names it", err)
	}
}
