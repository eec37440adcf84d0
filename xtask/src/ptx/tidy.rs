//! The compiler's text without what no assembler needs: a quarter of it.

use std::collections::{HashMap, HashSet};

/// Without comments, blanks at the beginnings of lines and variables that nothing reads; with the names that variables have
/// in the source, and short labels.
pub(crate) fn tidy(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(plain).filter(|line| !line.is_empty()).collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for word in lines.iter().flat_map(|line| words(line)) {
        *uses.entry(word).or_default() += 1;
    }
    let mut names =
        Names { taken: uses.keys().map(|&word| word.to_owned()).collect(), given: HashMap::new() };
    let mut tidy = String::with_capacity(text.len());
    // What the compiler makes of a constant of the source is read by nobody.
    let read = |line: &&String| variable(line).is_none_or(|name| uses.get(name) != Some(&1));
    for line in lines.iter().filter(read) {
        let mut rest = line.as_str();
        while let Some(word) = words(rest).find(|word| is_long(word)) {
            let at = word.as_ptr() as usize - rest.as_ptr() as usize;
            tidy.push_str(&rest[..at]);
            tidy.push_str(names.short(word));
            rest = &rest[at + word.len()..];
        }
        tidy.push_str(rest);
        tidy.push('\n');
    }
    tidy
}

/// A line without a comment, with one blank in the place of several, and none after a comma.
fn plain(line: &str) -> String {
    let line = line.split("//").next().unwrap_or_default();
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    words.join(" ").replace(", ", ",")
}

/// The names and numbers of a line.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || "_$%".contains(c))).filter(|word| !word.is_empty())
}

/// The name of the variable in global memory that a line declares.
fn variable(line: &str) -> Option<&str> {
    let declared = line.strip_prefix(".global ")?.split([';', '=', '[']).next()?;
    declared.trim_end().rsplit(' ').next()
}

/// What a mangled name begins with, and a label.
const MANGLED: &str = "_Z";
const LABEL: &str = "$L__BB";

fn is_long(word: &str) -> bool {
    word.starts_with(MANGLED) || word.starts_with(LABEL)
}

/// Short names for long ones.
struct Names {
    taken: HashSet<String>,
    given: HashMap<String, String>,
}

impl Names {
    fn short(&mut self, long: &str) -> &str {
        if !self.given.contains_key(long) {
            let wanted = match long.strip_prefix(LABEL) {
                Some(number) => format!("${number}"),
                None => unmangled(long),
            };
            let more = (2..).map(|n| format!("{wanted}_{n}"));
            let free = [wanted.clone()].into_iter().chain(more).find(|name| !self.taken.contains(name));
            let free = free.unwrap_or_else(|| unreachable!("there is always one more number"));
            self.taken.insert(free.clone());
            self.given.insert(long.to_owned(), free);
        }
        &self.given[long]
    }
}

/// The last part of a mangled name, with what the compiler put behind it to tell the members of a structure: of
/// `_ZZ3fooE3bar_$_1`, `bar_1`.
fn unmangled(name: &str) -> String {
    let (path, member) = name.split_once("_$_").unwrap_or((name, ""));
    let member: String =
        member.split("_$_").filter(|part| !part.is_empty()).map(|n| format!("_{n}")).collect();
    // A part is its length and that many letters; behind the last may be a number, and is the end of the path.
    let path = match path.rsplit_once('_') {
        Some((before, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => before,
        _ => path,
    };
    let path = path.trim_end_matches('E');
    let part = |(at, _)| {
        let digits = path[at..].chars().take_while(char::is_ascii_digit).count();
        let (length, part) = path[at..].split_at(digits);
        (length.parse() == Ok(part.len()) && !part.is_empty()).then_some(part)
    };
    let last = path.char_indices().find_map(part).unwrap_or("variable");
    format!("{last}{member}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_is_assembled() {
        let text = "//\n// Generated\n.version 8.4\n.global .align 4 .u32 SIDE = 16;\n\
                    .global .align 4 .u32 READ = 7; // by all\n\
                    .visible .entry k(\n\t.param .u64 k_param_0\n)\n{\n\
                    \t.shared .align 16 .b8 _ZZ5tokenE6memory[64];\n\
                    \tst.shared.u32 \t[_ZZ4workvE4work_$_0_$_2], %r1;\n\
                    \tst.shared.u32 \t[_ZZ5tokenE6memory+4], %r1;\n\
                    \t@%p1 bra \t$L__BB0_21;\n\n\tmov.u32 \t%r2, READ;\n$L__BB0_21:\n\tret;\n}\n";
        let expected = ".version 8.4\n.global .align 4 .u32 READ = 7;\n.visible .entry k(\n.param .u64 k_param_0\n)\n{\n\
                        .shared .align 16 .b8 memory[64];\nst.shared.u32 [work_0_2],%r1;\n\
                        st.shared.u32 [memory+4],%r1;\n@%p1 bra $0_21;\nmov.u32 %r2,READ;\n$0_21:\nret;\n}\n";
        assert_eq!(tidy(text), expected);
    }

    #[test]
    fn no_two_variables_get_one_name() {
        let text = "a _ZZ3oneE1m b _ZZ3twoE1m c m_3 d m _ZZ3oneE1m";
        assert_eq!(tidy(text), "a m_2 b m_4 c m_3 d m m_2\n");
    }

    #[test]
    fn names_are_those_of_the_source() {
        for (long, short) in [
            (
                "_ZZ10light_convI13__nv_bfloat16Lb0ELb0EEvPKT_PKvS5_S3_PK5uint4PS1_RK6ParamsE4work_$_0_$_0_$_1",
                "work_0_0_1",
            ),
            ("_ZN5ShapeILj128ELj64ELj2ELj2EE12WARP_COLUMNSE", "WARP_COLUMNS"),
            (
                "_ZZ6linearI6__halfS0_S0_5ShapeILj128ELj128ELj2ELj2EELj3EEvPKT_PKT0_S8_PT1_RK6ParamsE6memory",
                "memory",
            ),
            ("_ZZ3fooE3bar_0", "bar"),
            ("_Zwhat", "variable"),
        ] {
            assert_eq!(unmangled(long), short);
        }
    }
}
