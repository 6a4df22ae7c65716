"""One little program per language, with every level of completion in it. Written for these tests."""

from __future__ import annotations

PROGRAMS: dict[str, str] = {
    "Python": """class Café:
    def total(self, xs):
        # the sum
        s = "naïve 日本"
        return sum([x * 2 for x in xs], 1)
""",
    "JavaScript": """class A {
  add(a, b) {
    // é the sum
    const s = "é";
    return this.sum(a + b, 1);
  }
}
function twice(x) {
  return x * 2;
}
""",
    "TypeScript": """class A {
  add(a: number, b: number): number {
    // é the sum
    const s = "é";
    return f(a + b, 1);
  }
}
""",
    "TSX": """class A {
  view(a: number) {
    /* é the sum */
    const s = f(a, 1) + 2;
    return <p>é {s}</p>;
  }
}
""",
    "Java": """class A {
    int add(int a, int b) {
        // é the sum
        String s = "é";
        return sum(a + b, 1);
    }
}
""",
    "C#": """class A {
    int Add(int a, int b) {
        // é the sum
        var s = "é";
        return Sum(a + b, 1);
    }
}
""",
    "Go": """package a

type T struct {
	x int
}

func add(a int, b int) int {
	// é the sum
	s := "é"
	return sum(a+b, s)
}
""",
    "Rust": """struct T {
    x: i32,
}

fn add(a: i32, b: i32) -> i32 {
    // é the sum
    let s = "é";
    sum(a + b, s)
}
""",
    "C": """struct T {
  int x;
};

int add(int a, int b) {
  // é the sum
  const char *s = "é";
  return sum(a + b, s);
}
""",
    "C++": """class T {
  int x;
};

int add(int a, int b) {
  // é the sum
  auto s = "é";
  return sum(a + b, s);
}
""",
    "PHP": """<?php
class A {
  function add($a, $b) {
    # é the sum
    $s = "é";
    return sum($a + $b, $s);
  }
}
""",
    "Ruby": """class A
  def add(a, b)
    # é the sum
    s = "é"
    sum(a + b, s)
  end
end
""",
    "Kotlin": """class A {
    fun add(a: Int, b: Int): Int {
        // é the sum
        val s = "é"
        return sum(a + b, s)
    }
}
""",
    "Scala": """class A {
  def add(a: Int, b: Int): Int = {
    // é the sum
    val s = "é"
    sum(a + b, s)
  }
}
""",
    "Shell": """add() {
  # é the sum
  local s="é $1"
  if [ -n "$s" ]; then
    echo "$(wc -l "$s")"
  fi
}
""",
    "SQL": """CREATE TABLE t (a INT, b TEXT);
CREATE FUNCTION add(a INT, b INT) RETURNS INT AS $$
BEGIN
  RETURN a + b;
END;
$$ LANGUAGE plpgsql;
-- é the sum
SELECT sum(a + b, 1) FROM t WHERE b = 'é';
""",
}
NOT_THERE = {("Shell", "class"), ("SQL", "block")}  # (language, level)
